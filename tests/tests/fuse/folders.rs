//! readdir: large folders, folders in folders, names of any bytes, and what is not shown.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lacuna_tests::mount::Mount;
use lacuna_tests::rig::Rig;
use rustix::fs::Dir;
use rustix::io::Errno;

fn names(dir: &Path) -> Result<BTreeSet<OsString>> {
    let names: Vec<_> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    let set: BTreeSet<_> = names.iter().cloned().collect();
    ensure!(
        set.len() == names.len(),
        "a name is listed twice in {}",
        dir.display()
    );
    Ok(set)
}

#[test]
fn five_thousand_names() -> Result<()> {
    let rig = Rig::filled(|dir| {
        (0..5000).try_for_each(|number| Ok(File::create(dir.join(format!("volume-{number}"))).map(drop)?))
    })?;
    let expected: BTreeSet<_> = (0..5000)
        .map(|number| OsString::from(format!("volume-{number}")))
        .collect();
    assert_eq!(names(rig.mount.path())?, expected);
    // A second pass comes from other caches than the first.
    assert_eq!(names(rig.mount.path())?, expected);
    Ok(())
}

/// rewinddir(3) starts again from the first name, `.` and `..` are there once.
#[test]
fn a_listing_can_be_rewound() -> Result<()> {
    let rig = Rig::filled(|dir| (0..700).try_for_each(|n| Ok(fs::write(dir.join(n.to_string()), "")?)))?;
    let mut listing = Dir::new(File::open(rig.mount.path())?)?;
    let mut pass = |count: usize| -> Result<Vec<Vec<u8>>> {
        let names = listing
            .by_ref()
            .take(count)
            .map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
        let names = names.collect::<Result<_>>()?;
        listing.rewind();
        Ok(names)
    };
    let part = pass(300)?;
    let all = pass(usize::MAX)?;
    assert_eq!(part, all[..300]);
    assert_eq!(all.len(), 702);
    for dots in [&b"."[..], b".."] {
        assert_eq!(all.iter().filter(|name| name.as_slice() == dots).count(), 1);
    }
    Ok(())
}

#[test]
fn folders_in_folders() -> Result<()> {
    let deep: PathBuf = (0..20).map(|level| format!("level-{level}")).collect();
    let rig = Rig::filled(|dir| {
        fs::create_dir_all(dir.join(&deep))?;
        fs::create_dir(dir.join("empty"))?;
        Ok(fs::write(dir.join(&deep).join("volume"), "at the bottom")?)
    })?;
    assert_eq!(fs::read(rig.volume(&deep).join("volume"))?, b"at the bottom");
    assert_eq!(names(&rig.volume("empty"))?, BTreeSet::new());
    assert_eq!(
        names(rig.mount.path())?,
        ["empty", "level-0"].map(OsString::from).into()
    );
    assert_eq!(
        fs::read(rig.volume(&deep).join("../../level-18/level-19/volume"))?,
        b"at the bottom"
    );
    Ok(())
}

#[test]
fn names_of_any_bytes() -> Result<()> {
    let odd: Vec<OsString> = [
        &b"with space"[..],
        b" leading",
        b"new\nline",
        b"not \xff\xfe utf-8",
        b"quote\"'`$\\",
        b"-dash",
        b"...",
        "ünïcödé ☃".as_bytes(),
        &[b'n'; 255],
        &[0xc3; 255],
    ]
    .map(|name| OsString::from_vec(name.to_vec()))
    .into();
    let rig = Rig::filled(|dir| {
        odd.iter()
            .try_for_each(|name| Ok(fs::write(dir.join(name), name.as_bytes())?))
    })?;
    assert_eq!(names(rig.mount.path())?, odd.iter().cloned().collect());
    for name in &odd {
        assert_eq!(fs::read(rig.volume(name))?, name.as_bytes());
    }
    Ok(())
}

/// Links, sockets, pipes and devices are neither listed nor found, and no link leads out.
#[test]
fn only_files_and_folders_are_shown() -> Result<()> {
    let rig = Rig::filled(|dir| {
        fs::write(dir.with_file_name("secret"), "outside")?;
        fs::create_dir(dir.join("folder"))?;
        fs::write(dir.join("volume"), "inside")?;
        for (target, link) in [
            ("volume", "link"),
            ("../secret", "out"),
            ("/", "root"),
            ("folder", "link-to-folder"),
            ("none", "dead"),
        ] {
            std::os::unix::fs::symlink(target, dir.join(link))?;
        }
        // A socket's path may be 107 bytes long at most; the test needs the node, not the listener.
        let _here = UnixListener::bind(dir.join("socket"))?;
        lacuna_tests::command::tool("mkfifo", [dir.join("pipe")])?;
        lacuna_tests::command::tool(
            "mknod",
            [
                dir.join("null").as_os_str(),
                OsStr::new("c"),
                "1".as_ref(),
                "3".as_ref(),
            ],
        )?;
        Ok(())
    })?;
    assert_eq!(
        names(rig.mount.path())?,
        ["folder", "volume"].map(OsString::from).into()
    );
    for name in [
        "link",
        "out",
        "root",
        "root/etc",
        "link-to-folder",
        "dead",
        "socket",
        "pipe",
        "null",
    ] {
        assert_eq!(
            rustix::fs::lstat(rig.volume(name)).err(),
            Some(Errno::NOENT),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn a_folder_can_be_mounted_by_itself() -> Result<()> {
    let rig = Rig::filled(|dir| {
        fs::create_dir_all(dir.join("sub/deeper still"))?;
        fs::write(dir.join("sub/volume"), "in sub")?;
        Ok(fs::write(dir.join("sub/deeper still/volume"), "deeper")?)
    })?;
    for (folder, content) in [("sub", "in sub"), ("sub/deeper still", "deeper")] {
        let mountpoint = rig.sandbox.join(format!("mnt-{}", folder.len()));
        let mount = Mount::new(rig.mount.client(), &rig.server, folder.as_ref(), mountpoint, &[])?;
        assert_eq!(fs::read(mount.join("volume"))?, content.as_bytes());
        assert_eq!(names(mount.path())?, names(&rig.original(folder))?);
    }
    Ok(())
}
