"""Voucherify, loyalty programmes: signed `customer.rewarded` events in; order status, event or rollback out."""
