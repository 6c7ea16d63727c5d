//! `-o` of `lacuna mount`.

use std::time::Duration;

use crate::compress::Compress;
use crate::memory::Division;
use crate::size;
use crate::volume::shared::{DetectZeroes, Settings};

/// Smallest `dirty=`: a few of the largest writes must fit at once.
pub const DIRTY_BYTES_MIN: u64 = 4 << 20;
/// Default of `timeout=`.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What follows from `memory=` and `cache=`.
    pub memory: Division,
    /// `None` is `hard`.
    pub timeout: Option<Duration>,
    /// Users other than the one who mounts may use it; the default for root.
    pub allow_other: Option<bool>,
    pub noexec: bool,
    pub read_only: bool,
    /// How much of the cache may wait to be sent or flushed; `None` is half.
    pub dirty_bytes: Option<u64>,
    pub detect_zeroes: DetectZeroes,
    pub compress: Compress,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            memory: Division::default(),
            timeout: Some(TIMEOUT_DEFAULT),
            allow_other: None,
            noexec: false,
            read_only: false,
            dirty_bytes: None,
            detect_zeroes: DetectZeroes::Off,
            compress: Compress::Auto,
        }
    }
}

impl MountOptions {
    /// Parses comma-separated options. What belongs to mount(8), fstab or systemd is skipped.
    pub fn parse(lists: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let (mut memory_bytes, mut cache_bytes) = (None, None);
        for option in lists
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|option| !option.is_empty())
        {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match (name, value) {
                ("cache", Some(value)) => {
                    cache_bytes = Some(size::parse(value).map_err(|error| format!("-o cache: {error}"))?);
                }
                ("memory", Some(value)) => {
                    memory_bytes = Some(size::parse(value).map_err(|error| format!("-o memory: {error}"))?);
                }
                ("dirty", Some(value)) => {
                    let bytes = size::parse(value).map_err(|error| format!("-o dirty: {error}"))?;
                    if bytes < DIRTY_BYTES_MIN {
                        return Err(format!(
                            "-o dirty={value} is too small: at least {}",
                            size::human(DIRTY_BYTES_MIN)
                        ));
                    }
                    options.dirty_bytes = Some(bytes);
                }
                ("detect-zeroes", Some("off")) => options.detect_zeroes = DetectZeroes::Off,
                ("detect-zeroes", Some("on")) => options.detect_zeroes = DetectZeroes::On,
                ("detect-zeroes", Some("unmap")) => options.detect_zeroes = DetectZeroes::Unmap,
                ("detect-zeroes", _) => {
                    return Err(format!("-o {option}: detect-zeroes is off, on or unmap"));
                }
                ("compress", Some(value)) => {
                    options.compress = value.parse().map_err(|error| format!("-o compress: {error}"))?;
                }
                ("ro", None) => options.read_only = true,
                ("rw", None) => options.read_only = false,
                ("timeout", Some(value)) => match value.parse::<u64>() {
                    Ok(seconds) if seconds > 0 => options.timeout = Some(Duration::from_secs(seconds)),
                    _ => {
                        return Err(format!(
                            "-o timeout={value}: seconds, at least 1 (or -o hard to wait for ever)"
                        ));
                    }
                },
                ("hard", None) => options.timeout = None,
                ("allow_other", None) => options.allow_other = Some(true),
                ("noallow_other", None) => options.allow_other = Some(false),
                ("noexec", None) => options.noexec = true,
                ("exec", None) => options.noexec = false,
                (name, _) if is_foreign(name) => {}
                _ => {
                    return Err(format!(
                        "-o {option} is not known: there are memory=SIZE, cache=SIZE, dirty=SIZE, detect-zeroes=off|on|unmap, compress=auto|none|zstd|lz4, timeout=SECS, hard, allow_other, noallow_other, ro, rw, noexec"
                    ));
                }
            }
        }
        options.memory = Division::of(memory_bytes, cache_bytes)?;
        if let Some(bytes) = options.dirty_bytes
            && bytes > options.memory.cache_bytes / 2
        {
            return Err(format!(
                "-o dirty={}: at most half of the cache ({}): make it smaller, or add cache=SIZE",
                size::human(bytes),
                size::human(options.memory.cache_bytes)
            ));
        }
        Ok(options)
    }

    /// What of this concerns the file system.
    pub fn settings(&self) -> Settings {
        let settings = Settings::new(self.memory.cache_bytes, self.timeout);
        Settings {
            dirty_bytes_max: self.dirty_bytes.unwrap_or(settings.dirty_bytes_max),
            detect_zeroes: self.detect_zeroes,
            map_runs_max: self.memory.map_runs_max,
            kernel_caches: true,
            ..settings
        }
    }
}

/// Options that say something to others than us, or what is the case anyway.
fn is_foreign(name: &str) -> bool {
    const FOREIGN: &[&str] = &[
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "group",
        "owner",
        "_netdev",
        "nofail",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "diratime",
        "nodiratime",
        "iversion",
        "noiversion",
        "mand",
        "nomand",
        "silent",
        "loud",
        "symfollow",
        "nosymfollow",
        "comment",
    ];
    FOREIGN.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, String> {
        MountOptions::parse(&[text.to_owned()])
    }

    #[test]
    fn options_are_taken_and_foreign_ones_skipped() {
        let options = parse("cache=64M,timeout=5,_netdev,nofail,x-systemd.automount,ro").unwrap();
        assert_eq!(options.memory.cache_bytes, 64 << 20);
        assert_eq!(options.timeout, Some(Duration::from_secs(5)));
        let memory = parse("memory=128M").unwrap().memory;
        assert!(memory.cache_bytes < 128 << 20 && memory != Division::default());
        assert_eq!(parse("hard").unwrap().timeout, None);
        assert_eq!(parse("compress=lz4").unwrap().compress, Compress::Lz4);
        assert_eq!(parse("").unwrap(), MountOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, word) in [
            ("cache=1M", "8 MiB"),
            ("cache=x", "size"),
            ("memory=8M", "48 MiB"),
            ("memory=128M,cache=128M", "memory= larger"),
            ("timeout=0", "timeout"),
            ("nonsense", "nonsense"),
            ("dirty=1M", "4 MiB"),
            ("dirty=200M", "half"),
            ("detect-zeroes=maybe", "unmap"),
            ("compress=gzip", "zstd"),
            ("compress", "compress"),
            ("cache", "cache"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
