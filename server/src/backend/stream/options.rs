//! `--stream NAME=FIFO,size=SIZE[,spool=SIZE][,window=SIZE][,format=raw|lacuna][,finish-on-umount]`

use std::path::PathBuf;
use std::str::FromStr;

use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::path::NodeName;
use lacuna_transport::size;

/// What stays readable behind the position if nothing else is said: more than any tool reads again right after
/// it wrote there.
const WINDOW_BYTES_DEFAULT: u64 = 1 << 20;
/// Room of a spool beyond its window, at least: a client has 16 writes on the wire, which arrive in any order,
/// and as many more that were answered before the first of them.
const SPOOL_ROOM_BYTES_MIN: u64 = 32 << 20;

/// For what is known of the spool if nothing else is said: 350,000 runs.
const MAP_BYTES_DEFAULT: u64 = 64 << 20;

/// How holes go into the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As zeros: the bytes of the volume and nothing else.
    Raw,
    /// Everything as [`lacuna_transport::records`].
    Records,
}

/// A stream as the operator asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    pub name: NodeName,
    pub fifo: PathBuf,
    pub size: u64,
    /// Most bytes in the spool; `None`: as many as its disk has room for.
    pub spool_bytes_max: Option<u64>,
    pub window_bytes: u64,
    pub format: Format,
    /// Finish it when the last mount that had it open for writing was unmounted.
    pub finish_on_umount: bool,
    /// Memory for what is known of the spool.
    pub map_bytes: u64,
}

const FORM: &str =
    "write NAME=FIFO,size=SIZE[,spool=SIZE][,window=SIZE][,format=raw|lacuna][,finish-on-umount]";

impl FromStr for StreamOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let (name, fifo) = words
            .next()
            .and_then(|first| first.split_once('='))
            .filter(|(name, fifo)| !name.is_empty() && !fifo.is_empty())
            .ok_or_else(|| format!("'{text}' names no volume and pipe: {FORM}"))?;
        let name = NodeName::new(name.as_bytes()).map_err(|error| format!("'{name}': {error}"))?;
        let (mut size, mut spool_bytes_max, mut window, mut format) = (None, None, None, None);
        let mut finish_on_umount = false;
        for word in words {
            let once = |is_first: bool| match is_first {
                true => Ok(()),
                false => Err(format!("'{word}': given twice")),
            };
            match word.split_once('=').unwrap_or((word, "")) {
                ("size", value) => once(size.replace(size::parse(value)?).is_none())?,
                ("spool", value) => once(spool_bytes_max.replace(size::parse(value)?).is_none())?,
                ("window", value) => once(window.replace(size::parse(value)?).is_none())?,
                ("format", "raw") => once(format.replace(Format::Raw).is_none())?,
                ("format", "lacuna") => once(format.replace(Format::Records).is_none())?,
                ("finish-on-umount", "") => once(!std::mem::replace(&mut finish_on_umount, true))?,
                _ => return Err(format!("'{word}' is not an option of a stream: {FORM}")),
            }
        }
        let size = size.ok_or_else(|| format!("a stream needs its size: {FORM}"))?;
        if !(1..=VOLUME_BYTES_MAX).contains(&size) {
            return Err(format!("no volume has {size} bytes: give another size="));
        }
        let window_bytes = window.unwrap_or(WINDOW_BYTES_DEFAULT);
        let least = window_bytes.saturating_add(SPOOL_ROOM_BYTES_MIN);
        if spool_bytes_max.is_some_and(|bytes| bytes < least) {
            let text = "the spool is too small: writes that overtake each other need 32M beyond the window";
            return Err(format!("{text}; give spool={least} or more"));
        }
        Ok(Self {
            name,
            fifo: PathBuf::from(fifo),
            size,
            spool_bytes_max,
            window_bytes,
            format: format.unwrap_or(Format::Raw),
            finish_on_umount,
            map_bytes: MAP_BYTES_DEFAULT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_and_the_rest_has_defaults() {
        let all = "disk=/run/p,size=10G,spool=1G,window=64K,format=lacuna,finish-on-umount";
        let expected = StreamOptions {
            name: NodeName::new(b"disk").unwrap(),
            fifo: PathBuf::from("/run/p"),
            size: 10 << 30,
            spool_bytes_max: Some(1 << 30),
            window_bytes: 64 << 10,
            format: Format::Records,
            finish_on_umount: true,
            map_bytes: MAP_BYTES_DEFAULT,
        };
        assert_eq!(all.parse(), Ok(expected.clone()));
        let least = StreamOptions {
            size: 4096,
            spool_bytes_max: None,
            window_bytes: 1 << 20,
            format: Format::Raw,
            finish_on_umount: false,
            ..expected
        };
        assert_eq!("disk=/run/p,size=4096".parse(), Ok(least));
    }

    #[test]
    fn the_least_spool_holds_what_may_overtake() {
        use lacuna_transport::limits::WRITE_BYTES_MAX;
        assert_eq!(SPOOL_ROOM_BYTES_MIN, 2 * 16 * u64::from(WRITE_BYTES_MAX));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, expected) in [
            ("", "names no volume"),
            ("disk,size=1G", "names no volume"),
            ("=/run/p,size=1G", "names no volume"),
            ("disk=/run/p", "needs its size"),
            ("a/b=/run/p,size=1G", "a/b"),
            ("disk=/run/p,size=0", "no volume has 0 bytes"),
            ("disk=/run/p,size=1X", "is not a size"),
            ("disk=/run/p,size=1G,size=2G", "given twice"),
            ("disk=/run/p,size=1G,window", "is not a size"),
            ("disk=/run/p,size=1G,format=qcow2", "is not an option"),
            ("disk=/run/p,size=1G,finish-on-umount=yes", "is not an option"),
            ("disk=/run/p,size=1G,spool=32M", "spool=34603008 or more"),
        ] {
            let error = text.parse::<StreamOptions>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!("disk=/run/p,size=1G,spool=33M".parse::<StreamOptions>().is_ok());
    }
}
