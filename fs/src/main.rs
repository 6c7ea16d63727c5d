//! The program `lacuna`.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use lacuna::command::mount::DAEMON_ENV;
use lacuna::command::mount_helper::Call;
use lacuna::command::{Cli, EXIT_FAILURE, mount_helper, run, umount};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = match mount_helper::call(std::env::args_os().collect(), umount::is_ours) {
        Call::Lacuna(arguments) => arguments,
        Call::Umount(arguments) => {
            let error = Command::new("umount").args(arguments).exec();
            eprintln!("lacuna: cannot run umount: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
        Call::Nothing => return ExitCode::SUCCESS,
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
            let text = one_line(&error);
            // To the user, or the log of a daemon.
            eprintln!("lacuna: {text}");
            // A daemon's parent reads its standard output until it is ready, and prints it for the user.
            if std::env::var_os(DAEMON_ENV).is_some() {
                println!("{text}");
            }
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// The error and its causes, each said once: some errors name their source in their own text.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
    }
    text.replace('\n', " ")
}
