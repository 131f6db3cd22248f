//! How fast and how safe, by small seeded simulations at the defaults (φ = 2, max 1 %, interval 15 s).

use super::*;

/// SplitMix64: reproducible anywhere, and enough for counts.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        f64::from(high) / f64::from(u32::MAX)
    }

    /// Bad ones among `requests`, by the gaps between them.
    pub(super) fn bad(&mut self, requests: u32, share: f64) -> u32 {
        let (mut bad, mut at) = (0, 0.0);
        loop {
            at += (self.uniform().ln() / (-share).ln_1p()).floor() + 1.0;
            if at > f64::from(requests) {
                return bad;
            }
            bad += 1;
        }
    }
}

/// Intervals until each step's pass, or until the failure, at so many requests an interval.
#[derive(Debug)]
enum Outcome {
    Promoted(Vec<i64>),
    Failed { step: u32, intervals: i64 },
    Undecided,
}

fn rollout(random: &mut Random, requests: u32, stable_share: f64, canary_share: f64, patience: i64) -> Outcome {
    let mut evidence = start();
    let (mut now, mut passes) = (0, Vec::new());
    for (step, weight) in [(0, 10), (1, 30), (2, 50), (3, 100)] {
        let moment = Moment { step, ..at(weight) };
        let began = now;
        loop {
            now += 1;
            if now > patience {
                return Outcome::Undecided;
            }
            let canary = requests * weight / 100;
            let stable = requests - canary;
            let seen = counts(
                (canary, random.bad(canary, canary_share)),
                (
                    stable,
                    if stable == 0 {
                        0
                    } else {
                        random.bad(stable, stable_share)
                    },
                ),
            );
            let judgement = judge(&evidence, &[interval(now, vec![seen])], &settings(), &moment, None);
            evidence = judgement.evidence;
            match judgement.verdict {
                Verdict::Pass => break,
                Verdict::Fail(_) => {
                    return Outcome::Failed {
                        step,
                        intervals: now - began,
                    };
                }
                _ => {}
            }
        }
        passes.push(now - began);
    }
    Outcome::Promoted(passes)
}

#[test]
fn a_healthy_version_at_300_requests_a_second_passes_each_step_in_a_few_intervals() {
    let mut random = Random(1);
    for _ in 0..200 {
        let outcome = rollout(&mut random, 4500, 0.001, 0.001, 100);
        let Outcome::Promoted(passes) = &outcome else {
            panic!("{outcome:?}")
        };
        assert!(
            passes[0] <= 10 && passes[1..].iter().all(|intervals| *intervals <= 3),
            "{passes:?}"
        );
    }
}

#[test]
fn five_per_cent_against_a_tenth_fails_in_one_or_two_intervals_of_the_first_step() {
    let mut random = Random(2);
    for _ in 0..500 {
        let outcome = rollout(&mut random, 4500, 0.001, 0.05, 100);
        assert!(
            matches!(
                outcome,
                Outcome::Failed {
                    step: 0,
                    intervals: 1..=2
                }
            ),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_version_that_fails_everything_trips_in_the_first_interval() {
    let mut random = Random(3);
    let outcome = rollout(&mut random, 4500, 0.001, 0.999_999, 100);
    assert!(
        matches!(outcome, Outcome::Failed { step: 0, intervals: 1 }),
        "{outcome:?}"
    );
}

#[test]
fn false_rollbacks_stay_under_one_per_cent_and_bad_versions_do_not_get_through() {
    let mut random = Random(4);
    let (mut failed, mut promoted) = (0, 0);
    for _ in 0..300 {
        // 10 requests a second, healthy at half the max, for an hour.
        failed += u32::from(matches!(
            rollout(&mut random, 150, 0.005, 0.005, 240),
            Outcome::Failed { .. }
        ));
        // Twice the max at 100 requests a second.
        promoted += u32::from(matches!(
            rollout(&mut random, 1500, 0.001, 0.02, 240),
            Outcome::Promoted(_)
        ));
    }
    assert!(failed <= 3, "{failed} of 300 rolled back");
    assert_eq!(promoted, 0);
}
