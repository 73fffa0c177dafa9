//! A Bedrock-shaped server with Bedrock's quota rules, and faults on order.
