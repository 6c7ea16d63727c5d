//! What processes have used of the processors, as the kernel counts it: in ticks of 10 ms.

use std::collections::BTreeSet;
use std::fs;

/// Ticks of /proc in a second: USER_HZ, which Linux has fixed for programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of these processes, of their descendants, and of what of those has ended and was waited for: user and
/// system time of all threads. A process that is gone counts as nothing.
pub fn seconds(processes: &[u32]) -> f64 {
    let mut found = BTreeSet::new();
    let mut left = processes.to_vec();
    while let Some(process) = left.pop() {
        if found.insert(process) {
            left.extend(children(process));
        }
    }
    let ticks: u32 = found.into_iter().filter_map(ticks_of).sum();
    f64::from(ticks) / TICKS_PER_SECOND
}

fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let words: Vec<String> = lists.collect();
    let numbers = words.iter().flat_map(|list| list.split_whitespace());
    numbers.filter_map(|word| word.parse().ok()).collect()
}

fn ticks_of(process: u32) -> Option<u32> {
    ticks_in(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// proc_pid_stat(5): utime, stime, cutime and cstime are fields 14 to 17; the name, field 2, may have spaces in it.
fn ticks_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').skip(11).take(4).collect();
    let ticks: Result<Vec<u32>, _> = fields.iter().map(|field| field.parse()).collect();
    ticks
        .ok()
        .filter(|ticks| ticks.len() == 4)
        .map(|ticks| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_stat_are_found_behind_any_name() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 9 0 100 1 2 18446744073709551615 1 1";
        assert_eq!(ticks_in(stat), Some(124));
        assert_eq!(ticks_in("7 (a) S 1 7"), None);
    }

    #[test]
    fn a_process_that_works_is_counted_and_one_that_is_gone_is_not() {
        let this = std::process::id();
        let before = seconds(&[this]);
        let mut number = 0_u64;
        while seconds(&[this]) < before + 0.05 {
            number = std::hint::black_box(number + 1);
        }
        assert!(seconds(&[u32::MAX]).abs() < f64::EPSILON);
    }
}
