//! The binary: nothing but the way into the library.

fn main() -> std::process::ExitCode {
    pgsegue::cli::run()
}
