//! How a link treats packets, and the words that say it: `rtt=20ms jitter=1ms loss=5% rate=1gbit`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Parts of a whole: what chances are counted in.
pub const WHOLE_PPM: u32 = 1_000_000;

/// What waits to be sent at a bounded rate, if nothing else is said: 100 ms at 100 Mbit/s, as in a usual router.
const QUEUE_BYTES: u64 = 1_250_000;

/// See the module. Both directions are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// There and back, without waiting in the queue.
    pub rtt: Duration,
    /// A packet takes up to so much longer, but stays in order.
    pub jitter: Duration,
    /// Chances, each for itself, that a packet is lost, arrives twice, or is overtaken by later ones.
    pub loss_ppm: u32,
    pub duplicate_ppm: u32,
    pub reorder_ppm: u32,
    /// Bits per second; `None`: as fast as it goes.
    pub rate_bits: Option<u64>,
    /// What may wait when there is a rate; what comes then is lost.
    pub queue_bytes: u64,
    /// Nothing passes at all.
    pub cut: bool,
}

impl Default for Conditions {
    /// A perfect link.
    fn default() -> Self {
        Self {
            rtt: Duration::ZERO,
            jitter: Duration::ZERO,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            rate_bits: None,
            queue_bytes: QUEUE_BYTES,
            cut: false,
        }
    }
}

impl Conditions {
    /// This round trip and this loss, all else perfect.
    pub fn of(rtt_ms: u64, loss_percent: u32) -> Self {
        Self {
            rtt: Duration::from_millis(rtt_ms),
            loss_ppm: loss_percent * (WHOLE_PPM / 100),
            ..Self::default()
        }
    }

    /// These conditions with what `word` says, which is `cut`, `mend` or one of
    /// `rtt=TIME jitter=TIME loss=SHARE duplicate=SHARE reorder=SHARE rate=BITS queue=BYTES`: a time in `us`, `ms` or
    /// `s`, a share in `%`, bits per second in `kbit`, `mbit` or `gbit`, a number of bytes.
    pub fn with(mut self, word: &str) -> Result<Self> {
        let (key, value) = match word {
            "cut" | "mend" => {
                self.cut = word == "cut";
                return Ok(self);
            }
            _ => word
                .split_once('=')
                .with_context(|| format!("not KEY=VALUE, cut or mend: {word}"))?,
        };
        self.take(key, value)
            .with_context(|| format!("cannot understand {word}"))?;
        Ok(self)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "rtt" => self.rtt = time(value)?,
            "jitter" => self.jitter = time(value)?,
            "loss" => self.loss_ppm = share(value)?,
            "duplicate" => self.duplicate_ppm = share(value)?,
            "reorder" => self.reorder_ppm = share(value)?,
            "rate" => self.rate_bits = Some(rate(value)?),
            "queue" => self.queue_bytes = value.parse()?,
            _ => bail!("no such condition"),
        }
        Ok(())
    }
}

fn time(text: &str) -> Result<Duration> {
    let (number, unit_ns) = scaled(text, &[("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)])?;
    Ok(Duration::from_nanos(
        number.checked_mul(unit_ns).context("too long")?,
    ))
}

fn rate(text: &str) -> Result<u64> {
    let units = [
        ("kbit", 1_000),
        ("mbit", 1_000_000),
        ("gbit", 1_000_000_000),
        ("bit", 1),
    ];
    let (number, unit_bits) = scaled(text, &units)?;
    ensure!(number > 0, "use cut for a link that takes nothing");
    number.checked_mul(unit_bits).context("too fast")
}

/// Percent with up to four decimals.
fn share(text: &str) -> Result<u32> {
    let number = text.strip_suffix('%').context("a share ends in %")?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    ensure!(part.len() <= 4, "finer than a millionth");
    let ppm: u32 = format!("{whole}{part:0<4}").parse()?;
    ensure!(ppm <= WHOLE_PPM, "more than all");
    Ok(ppm)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<(u64, u64)> {
    units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?.parse().ok()?, *scale)))
        .with_context(|| format!("not a whole number with a unit: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(words: &str) -> Result<Conditions> {
        words.split(' ').try_fold(Conditions::default(), Conditions::with)
    }

    #[test]
    fn words_become_conditions() {
        let found =
            all("rtt=20ms jitter=300us loss=5% duplicate=0.5% reorder=0.0001% rate=2gbit queue=9").unwrap();
        let expected = Conditions {
            rtt: Duration::from_millis(20),
            jitter: Duration::from_micros(300),
            loss_ppm: 50_000,
            duplicate_ppm: 5_000,
            reorder_ppm: 1,
            rate_bits: Some(2_000_000_000),
            queue_bytes: 9,
            cut: false,
        };
        assert_eq!(found, expected);
        assert!(found.with("cut").unwrap().cut);
        assert_eq!(found.with("cut").unwrap().with("mend").unwrap(), expected);
        assert_eq!(all("rtt=100ms loss=1%").unwrap(), Conditions::of(100, 1));
    }

    #[test]
    fn what_is_not_a_condition_is_refused() {
        for word in [
            "",
            "rtt",
            "rtt=",
            "rtt=5",
            "rtt=-1ms",
            "loss=5",
            "loss=101%",
            "loss=0.00001%",
            "rate=0mbit",
            "rate=9",
            "speed=9gbit",
            "rtt=99999999999999s",
        ] {
            assert!(all(word).is_err(), "{word:?} was taken");
        }
    }
}
