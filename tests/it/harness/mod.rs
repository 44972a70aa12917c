#![allow(dead_code, reason = "not every tool of the bench is in use at every time")]

pub(crate) mod chaos;
pub(crate) mod s3;
