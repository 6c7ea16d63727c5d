//! SQLite with its write-ahead log: shared memory mapped from a file, locks, and fsync.

use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::at_once::at_once;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, host};

fn sql(database: &Path, text: &str) -> Result<String> {
    let words = [
        "-bail".as_ref(),
        "-cmd".as_ref(),
        ".timeout 60000".as_ref(),
        database.as_os_str(),
        text.as_ref(),
    ];
    let ended = command::tool("sqlite3", words)?;
    Ok(ended.text()?.trim().to_owned())
}

fn filled_in_mode(mode: &str) -> Result<()> {
    host::require_programs(&["sqlite3"])?;
    let rig = Rig::filled(|_| Ok(()))?;
    let database = rig.volume("database");
    let said = sql(&database, &format!("PRAGMA journal_mode={mode};"))?;
    assert_eq!(said, mode);
    sql(
        &database,
        "CREATE TABLE t (writer INTEGER, number INTEGER, content BLOB);",
    )?;
    at_once(2, |writer| {
        for round in 0..6 {
            let rows = format!(
                "BEGIN IMMEDIATE; WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50) \
                 INSERT INTO t SELECT {writer}, x + {round} * 50, randomblob(3000) FROM n; COMMIT;"
            );
            sql(&database, &rows)?;
            let check = sql(&database, "SELECT count(*) % 50 FROM t;")?;
            ensure!(check == "0", "half a transaction is visible: {check}");
        }
        Ok(())
    })?;
    sql(&database, "DELETE FROM t WHERE number % 3 = 0; VACUUM;")?;
    // Through the mount, and by another program at the server.
    for path in [database, rig.original("database")] {
        assert_eq!(sql(&path, "PRAGMA integrity_check;")?, "ok", "{}", path.display());
        assert_eq!(sql(&path, "SELECT count(*) FROM t;")?, "400");
        assert_eq!(sql(&path, "SELECT min(length(content)) FROM t;")?, "3000");
    }
    Ok(())
}

#[test]
fn with_a_write_ahead_log() -> Result<()> {
    filled_in_mode("wal")
}

#[test]
fn with_a_rollback_journal() -> Result<()> {
    filled_in_mode("delete")
}
