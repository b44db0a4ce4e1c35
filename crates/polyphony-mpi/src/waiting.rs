//! Waiting for other ranks without keeping a processor busy.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a rank polls before it begins to sleep between polls. Ranks of one step usually arrive together.
const POLLING: Duration = Duration::from_micros(200);

/// How long a rank sleeps at most between two polls. It delays the rank, but leaves the processor to others.
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// Polls until `missing` reports that no rank is missing. After every `limit` it logs a warning with the ranks that are
/// still missing; the time between warnings doubles.
pub(crate) fn wait_for_ranks(
    rank: usize,
    limit: Duration,
    mut missing: impl FnMut() -> Vec<usize>,
) {
    let start = Instant::now();
    let mut next_warning = limit;
    let mut sleep = Duration::from_micros(20);
    loop {
        let ranks = missing();
        if ranks.is_empty() {
            return;
        }
        let waited = start.elapsed();
        if waited >= next_warning && !limit.is_zero() {
            log::warn!("{}", warning(rank, waited, &ranks));
            next_warning = 2 * waited;
        }
        if waited < POLLING {
            thread::yield_now();
        } else {
            thread::sleep(sleep);
            sleep = (sleep * 2).min(LONGEST_SLEEP);
        }
    }
}

fn warning(rank: usize, waited: Duration, missing: &[usize]) -> String {
    const LISTED: usize = 8;
    let listed: Vec<String> = missing.iter().take(LISTED).map(usize::to_string).collect();
    let more = match missing.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "rank {rank} has waited {} s for rank{} {}{more}",
        waited.as_secs(),
        if missing.len() == 1 { "" } else { "s" },
        listed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_no_rank_is_missing() {
        let mut polls = 0;
        wait_for_ranks(0, Duration::from_secs(60), || {
            polls += 1;
            (polls..5).collect()
        });
        assert_eq!(polls, 5);
    }

    #[test]
    fn a_warning_names_the_missing_ranks() {
        let warning = |missing: &[usize]| warning(3, Duration::from_secs(300), missing);
        assert_eq!(warning(&[1]), "rank 3 has waited 300 s for rank 1");
        assert_eq!(warning(&[0, 2]), "rank 3 has waited 300 s for ranks 0, 2");
        let many: Vec<usize> = (10..30).collect();
        assert!(warning(&many).ends_with("for ranks 10, 11, 12, 13, 14, 15, 16, 17 and 12 more"));
    }
}
