//! The binary: hands the arguments to the library and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgkeep::cli::main(std::env::args_os()).into()
}
