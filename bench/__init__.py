"""Measurements that decision records rest on. Not part of the product."""
