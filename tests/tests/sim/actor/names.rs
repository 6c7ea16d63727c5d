//! Changes of names: each has effect once, however often it was sent.

use lacuna::error::ErrorKind;
use lacuna_transport::attr::NewNode;
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodeName;
use lacuna_transport::wire::message::RenameMode;
use tokio::time::Instant;

use super::{Actor, Limit};

const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// All clients try to make one name in so many seconds.
const CONTEST_SECS: u64 = 3;
/// Names of one client; then it removes one.
const NAMES_MAX: usize = 4;

impl Actor {
    pub(super) async fn name_step(&mut self) {
        match self.random.below(4) {
            0 => self.contest().await,
            1 => self.rename().await,
            _ if self.names.len() >= NAMES_MAX => self.remove().await,
            _ => self.make().await,
        }
    }

    /// A name that nobody had before, so that there is one right answer.
    fn new_name(&self) -> NodeName {
        let number = self.shared.ledger.lock().number();
        Self::name(&format!("n{number}"))
    }

    fn wrong(&self, what: &str, kind: ErrorKind) {
        // No answer in time: nobody knows, and the name is left alone from now on.
        if kind != ErrorKind::TimedOut {
            let text = format!(
                "c{} {what}: {kind:?}, so it had effect twice, or none",
                self.index
            );
            self.shared.ledger.lock().violation(text);
        }
    }

    async fn create(&self, what: &str, name: &NodeName) -> Result<(), ErrorKind> {
        let fs = &self.client.fs;
        let (attr, open) = self
            .timed(what, Limit::Deadline, fs.create(NodeId::ROOT, name, NODE, true))
            .await?;
        fs.close(open);
        fs.forget(attr.id, 1);
        Ok(())
    }

    async fn make(&mut self) {
        let name = self.new_name();
        match self.create("create", &name).await {
            Ok(()) => self.names.push(name),
            Err(kind) => self.wrong("create", kind),
        }
    }

    async fn remove(&mut self) {
        let name = self.names.remove(0);
        let removed = self.client.fs.remove(NodeId::ROOT, &name, false);
        if let Err(kind) = self.timed("remove", Limit::Deadline, removed).await {
            self.wrong("remove", kind);
        }
    }

    async fn rename(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let (from, to) = (self.names.remove(0), self.new_name());
        let mode = if self.random.below(2) == 0 {
            RenameMode::Keep
        } else {
            RenameMode::Replace
        };
        let ends = ((NodeId::ROOT, &from), (NodeId::ROOT, &to));
        let renamed = self.client.fs.rename(ends.0, ends.1, mode);
        match self.timed("rename", Limit::Deadline, renamed).await {
            Ok(()) => self.names.push(to),
            Err(kind) => self.wrong("rename", kind),
        }
    }

    async fn contest(&mut self) {
        let round = Instant::now().duration_since(self.shared.begun).as_secs() / CONTEST_SECS;
        self.shared.ledger.lock().contests.entry(round).or_default().open += 1;
        let made = self
            .create("contest", &Self::name(&format!("contest{round}")))
            .await;
        let mut ledger = self.shared.ledger.lock();
        let contest = ledger.contests.entry(round).or_default();
        match made {
            Ok(()) => contest.winners += 1,
            Err(ErrorKind::Exists) => contest.losers += 1,
            Err(kind) => {
                drop(ledger);
                return self.wrong("contest", kind);
            }
        }
        contest.open -= 1;
    }
}
