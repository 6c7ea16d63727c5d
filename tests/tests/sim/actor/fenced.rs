//! A writer that was told that another client may write: it is told of its losses once, changes nothing any more, sees what
//! the server has, and finds what was lost in a rescue file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use lacuna::error::ErrorKind;
use lacuna::file_system::changes::Reach;
use lacuna::rescue::RescueReport;
use lacuna_transport::range::ByteRange;
use tokio::time::{Instant, sleep};

use super::content::Writing;
use super::{Actor, Limit, RETRY_PAUSE};
use crate::client::RESCUE_BYTES_MAX;
use crate::history::{CELL_BYTES, Tag, ZEROS, tag_of};
use crate::world::volume_path;

/// Tries of a flush that fails for another reason.
const TRIES: usize = 8;

impl Actor {
    /// A call was answered with `Fenced`.
    pub(super) async fn fenced(&mut self, volume: usize) {
        let Some(to) = self.writing(volume) else { return };
        let who = format!("c{} v{volume}", self.index);
        {
            let mut ledger = self.shared.ledger.lock();
            ledger.fenced += 1;
            if ledger.holders[volume].is_certain(self.process) {
                ledger.violation(format!("{who} is fenced, and nobody can have got its lease"));
            }
        }
        let lost = self.shared.ledger.lock().volumes[volume].lost(to.turn);
        self.is_told_once(to).await;
        self.check_rescue(to, &lost).await;
        self.shared.ledger.lock().volumes[volume].over(to.turn);
        let late = self.client.fs.write(to.open, 0, &[0; CELL_BYTES], Reach::Here);
        if self
            .timed("write after a fence", Limit::GoesOn, late)
            .await
            .is_ok()
        {
            let text = format!("{who} takes a write after it was fenced");
            self.shared.ledger.lock().violation(text);
        }
        self.read(volume).await;
        self.shut(volume);
        let mut ledger = self.shared.ledger.lock();
        ledger.holders[volume].closed(self.process, true, false, Instant::now());
    }

    /// What was lost is an error of one fsync or close of the handle.
    async fn is_told_once(&mut self, to: Writing) {
        for _ in 0..TRIES {
            match self.flush(to.volume, to.turn, to.open).await {
                Ok(()) => return,
                // A second one is noticed where it is answered.
                Err(ErrorKind::Fenced) => {}
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// What was certainly lost is in the latest rescue file.
    async fn check_rescue(&self, to: Writing, lost: &[(usize, Vec<Tag>)]) {
        if lost.is_empty() {
            return;
        }
        let rescue = &self.client.fs.shared().rescue;
        rescue.kept().await;
        let of_volume = |report: &RescueReport| {
            volume_path(to.volume).is_ok_and(|path| report.volume == path.to_string())
        };
        let report = rescue.reports().into_iter().rev().find(of_volume);
        let checked = match &report {
            None => Err("there is no rescue file".to_owned()),
            Some(report) => look_into(report, lost),
        };
        let mut ledger = self.shared.ledger.lock();
        ledger.rescued += 1;
        ledger.note(&format!("c{} finds {} cells rescued", self.index, lost.len()));
        ledger.expect(&format!("c{} lost v{}", self.index, to.volume), checked);
    }
}

/// For each cell, what was put there last must be in the file, and among the changes that its notes name.
fn look_into(report: &RescueReport, lost: &[(usize, Vec<Tag>)]) -> Result<(), String> {
    if report.bytes > RESCUE_BYTES_MAX || report.left_out_bytes > 0 {
        return Err(format!("{report:?} is not what a client can have to send"));
    }
    let path = report.file.as_deref().ok_or("nothing could be rescued")?;
    let (image, changes) = open(path).map_err(|error| format!("{}: {error:#}", path.display()))?;
    for (cell, tags) in lost {
        let mut bytes = vec![0; CELL_BYTES];
        let at = u64::try_from(cell * CELL_BYTES).unwrap_or(0);
        let read = image.read_exact_at(&mut bytes, at);
        read.map_err(|error| format!("the rescue file ends before cell {cell}: {error}"))?;
        let tag = tag_of(*cell, &bytes)?;
        let range = ByteRange::at_saturating(at, u64::try_from(CELL_BYTES).unwrap_or(0));
        let named: u64 = changes.iter().map(|change| change.intersect(range).len()).sum();
        // A hole where there was one is no change.
        if !tags.contains(&tag) || (tag != ZEROS && named != range.len()) {
            return Err(format!(
                "cell {cell} had one of {tags:?}, and is rescued as {tag}, {named} bytes of it"
            ));
        }
    }
    Ok(())
}

/// A rescue file, and the ranges that were changed.
fn open(path: &Path) -> anyhow::Result<(File, Vec<ByteRange>)> {
    let notes: serde_json::Value = serde_json::from_slice(&std::fs::read(path.with_extension("json"))?)?;
    let number = |change: &serde_json::Value, name: &str| change[name].as_u64().context("a number");
    let changes = notes["changes"].as_array().context("changes")?.iter();
    let changes = changes
        .map(|change| ByteRange::new(number(change, "start")?, number(change, "end")?).context("a range"));
    Ok((File::open(path)?, changes.collect::<anyhow::Result<_>>()?))
}
