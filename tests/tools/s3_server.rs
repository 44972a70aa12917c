//! A small S3 server for tests and the demo.

fn main() {}
