"""GiftCard Partners, B2B API version 1: gift cards by mail or text message, as links, or by post."""
