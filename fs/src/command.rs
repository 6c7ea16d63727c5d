//! The program `lacuna`, one module for each command. Thin: arguments in, calls, output.

pub mod browse;
mod change;
pub mod connect;
pub mod create;
pub mod daemon;
pub mod finish;
mod interrupt;
pub mod key;
pub mod mount;
pub mod mount_helper;
mod output;
mod progress;
pub mod pull;
pub mod push;
pub mod resize;
pub mod rm;
mod save;
pub mod status;
mod transfer;
pub mod umount;
pub mod wipe;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Exit code of a failure; wrong usage exits with 2.
pub const EXIT_FAILURE: u8 = 1;

/// Mounts remote volumes as sparse local files.
#[derive(Debug, Parser)]
#[command(name = "lacuna", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Folder for this client's key, trusted servers and live mounts [default: /var/lib/lacuna as root,
    /// else the XDG state folder]
    #[arg(long, value_name = "DIR", env = "LACUNA_STATE", global = true)]
    pub state: Option<PathBuf>,
    /// Log more; twice for still more (LACUNA_LOG takes a filter)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print this client's identity; the first call creates it
    Key(key::KeyArgs),
    /// Pin a server's identity, as `lacunad key` prints it there
    Trust(key::TrustArgs),
    /// Mount a server's volumes
    Mount(mount::MountArgs),
    /// Have everything saved, unmount, and wait until the mount has ended
    Umount(umount::UmountArgs),
    /// List a folder of a server
    Ls(browse::LsArgs),
    /// Show the attributes of a volume or folder
    Stat(browse::StatArgs),
    /// Show the extents of a volume
    Map(browse::MapArgs),
    /// Make a new volume, all hole
    Create(create::CreateArgs),
    /// Grow a volume with a hole, or cut it
    Resize(resize::ResizeArgs),
    /// Remove a volume or an empty folder
    Rm(rm::RmArgs),
    /// Make a hole in a volume; its size stays
    Punch(wipe::PunchArgs),
    /// Make a volume, or a range of it, all hole or zeros; its size stays
    Wipe(wipe::WipeArgs),
    /// Download a volume, holes as holes
    Pull(pull::PullArgs),
    /// Upload into a volume, holes as holes
    Push(push::PushArgs),
    /// Have all of a stream go into its pipe, and end it
    Finish(finish::FinishArgs),
    /// Show the counters and state of live mounts
    Status(status::StatusArgs),
}

/// Runs a command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Key(args) => key::key(&cli.global, &args),
        Command::Trust(args) => key::trust(&cli.global, &args),
        Command::Mount(args) => mount::mount(&cli.global, &args),
        Command::Umount(args) => umount::umount(&cli.global, &args),
        Command::Ls(args) => browse::ls(&cli.global, &args),
        Command::Stat(args) => browse::stat(&cli.global, &args),
        Command::Map(args) => browse::map(&cli.global, &args),
        Command::Create(args) => create::create(&cli.global, &args),
        Command::Resize(args) => resize::resize(&cli.global, &args),
        Command::Rm(args) => rm::rm(&cli.global, &args),
        Command::Punch(args) => wipe::punch(&cli.global, &args),
        Command::Wipe(args) => wipe::wipe(&cli.global, &args),
        Command::Pull(args) => pull::pull(&cli.global, &args),
        Command::Push(args) => push::push(&cli.global, &args),
        Command::Finish(args) => finish::finish(&cli.global, &args),
        Command::Status(args) => status::status(&cli.global, &args),
    }
}
