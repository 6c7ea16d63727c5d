//! `lacunad clients`

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::access::AllowList;
use crate::control::{self, Answer, SessionReport};

#[derive(Debug, Args)]
pub(super) struct Clients {
    /// Print JSON: {"running": bool, "clients": [{"key", "name", "access", "sessions": [...]}]}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: super::State,
}

#[derive(Debug, Serialize)]
struct Report {
    /// A lacunad runs on this state folder.
    running: bool,
    clients: Vec<Client>,
}

#[derive(Debug, Serialize)]
struct Client {
    key: String,
    name: String,
    access: &'static str,
    sessions: Vec<SessionReport>,
}

impl Clients {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let state = self.state.folder()?;
        let list = AllowList::load(&state)?;
        let live = match control::ask(&state, "clients")? {
            Some(Answer::Clients { sessions }) => Some(sessions),
            Some(_) => anyhow::bail!(super::NONSENSE),
            None => None,
        };
        let report = Report::new(&list, live);
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            report.print(&mut out)?;
        }
        Ok(())
    }
}

impl Report {
    fn new(list: &AllowList, live: Option<Vec<SessionReport>>) -> Self {
        let running = live.is_some();
        let live = live.unwrap_or_default();
        let clients = list.entries().map(|entry| {
            let key = entry.key.to_string();
            Client {
                sessions: live
                    .iter()
                    .filter(|session| session.key == key)
                    .cloned()
                    .collect(),
                key,
                name: entry.name.clone(),
                access: entry.access.word(),
            }
        });
        Self {
            running,
            clients: clients.collect(),
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        if !self.running {
            writeln!(out, "no lacunad runs on this state folder")?;
        }
        if self.clients.is_empty() {
            writeln!(out, "no client is allowed; admit one with: lacunad allow KEY")?;
        }
        for client in &self.clients {
            let connected = if client.sessions.is_empty() {
                "not connected"
            } else {
                "connected"
            };
            writeln!(
                out,
                "{} {} {} {connected}",
                client.name, client.access, client.key
            )?;
            for session in &client.sessions {
                writeln!(
                    out,
                    "    session {} from {} for {} s: {} volumes open, {} bytes sent, {} bytes received",
                    session.session,
                    session.address,
                    session.age_secs,
                    session.open_volumes,
                    session.bytes_sent,
                    session.bytes_received
                )?;
            }
        }
        Ok(())
    }
}
