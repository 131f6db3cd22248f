//! How fast and how safe, by small seeded simulations at the defaults (φ = 2, max 1 %, interval 15 s).

use super::*;

/// SplitMix64: reproducible anywhere, and enough for counts.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Bad ones among `requests`, by the gaps between them.
    fn bad(&mut self, requests: u32, share: f64) -> u32 {
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

#[test]
fn zz_table() {
    for (phi, stable, canary) in [(1.0, 0.05, 0.05), (2.0, 0.05, 0.05)] {
        for rps in [1_u32, 10, 100, 1000] {
            let mut random = Random(9);
            #[allow(non_snake_case)]
            let FROM: i64 = std::env::var("FROM").unwrap().parse().unwrap();
            let runs = if rps == 1 { 100 } else { 200 };
            let (mut failed, mut promoted, mut times) = (0, 0, vec![]);
            for _ in 0..runs {
                let mut settings = two_metrics();
                settings.phi = phi;
                let mut evidence = begin(&settings, ACCEPTED);
                let mut now = 0;
                let mut outcome = "";
                'run: for (step, weight) in [(0, 10), (1, 30), (2, 50), (3, 100)] {
                    let moment = Moment { step, ..at(weight) };
                    let began = now;
                    loop {
                        now += 1;
                        if now > 960 {
                            break 'run;
                        }
                        let outage = stable > 0.03;
                        let (sp, cp) = if outage && !(FROM..FROM + 24).contains(&now) {
                            (0.001, 0.001)
                        } else {
                            (stable, canary)
                        };
                        let total = rps * 15;
                        let mut c = 0;
                        for _ in 0..total {
                            c += u32::from(random.uniform() < f64::from(weight) / 100.0);
                            if total > 2000 {
                                c = total * weight / 100;
                                break;
                            }
                        }
                        let s = total - c;
                        let mut obs = |cp, sp| counts((c, random.bad(c, cp)), (s, random.bad(s, sp)));
                        let seen = vec![obs(cp, sp), obs(0.001, 0.001)];
                        let j = judge(&evidence, &[interval(now, seen)], &settings, &moment, None);
                        evidence = j.evidence;
                        match j.verdict {
                            Verdict::Pass if now - began >= 4 => break,
                            Verdict::Fail(_) => {
                                outcome = "f";
                                break 'run;
                            }
                            _ => {}
                        }
                    }
                    if step == 3 {
                        outcome = "p";
                    }
                }
                match outcome {
                    "f" => {
                        failed += 1;
                        times.push(now)
                    }
                    "p" => {
                        promoted += 1;
                        times.push(now)
                    }
                    _ => {}
                }
            }
            times.sort();
            println!(
                "phi {phi} {stable}->{canary} {rps} rps: failed {:.1}% promoted {:.1}% median {:.1} min",
                100.0 * failed as f64 / runs as f64,
                100.0 * promoted as f64 / runs as f64,
                times.get(times.len() / 2).map_or(0.0, |t| *t as f64 / 4.0)
            );
        }
    }
}
