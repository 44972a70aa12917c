pub(crate) mod chaos;
pub(crate) mod s3;
