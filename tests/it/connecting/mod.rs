//! Connecting as libpq does: to the right one of several hosts, with the password of the moment, to a
//! server that speaks another language, and where it lets only so many in.

mod hosts;
mod language;
mod limits;
mod passwords;
mod tls;
