//! The program `lacuna`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use lacuna::command::mount::DAEMON_ENV;
use lacuna::command::{Cli, EXIT_FAILURE, mount_helper, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let Some(arguments) = mount_helper::arguments(std::env::args_os().collect()) else {
        return ExitCode::SUCCESS;
    };
    let cli = Cli::parse_from(arguments);
    let level = match cli.global.verbose {
        0 => "warn",
        1 => "info,lacuna=debug",
        _ => "debug,lacuna=trace",
    };
    let filter = EnvFilter::try_from_env("LACUNA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A daemon's parent reads its standard output, and prints it for the user.
            if std::env::var_os(DAEMON_ENV).is_some() {
                println!("{error:#}");
            } else {
                eprintln!("lacuna: {error:#}");
            }
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
