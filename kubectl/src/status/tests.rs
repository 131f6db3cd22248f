//! What a person sees.

use stepgate_crds::status::{Cause, PauseReason};

use super::*;

#[test]
fn a_step_shows_ladder_weights_counts_and_evidence() {
    let text = detail(&fixtures::stepping(1), fixtures::now());
    let expected = "\
shop/checkout   Stepping   step 2/4
1,204 of about 3,000 requests

Run r7, begun 1m ago: at this weight for 45s
  ✓    10 %   bake 1m
  ▶    30 %   bake 1m
  ·    50 %   bake 2m   needs approval
  ·   100 %   bake 1m

Weight    intended 30 %   accepted 30 %   measured 30.1 %
Verdict   InsufficientTraffic

errors in this step   requests   bad    share
  canary                 1,204     3   0.25 %
  stable                 2,801     3   0.11 %
  evidence against it   █████░░░░░░░░░░░░░░░   1.50   fails at 6.00
  evidence for it       ██████████░░░░░░░░░░   1.50   passes at 3.00

Found
  Deployment    checkout
  stable        ReplicaSet checkout-7d4, template checkout-r6
  Services      checkout and checkout-canary, port 80
  canary pods   app=checkout-canary (Service checkout selects by app)
  queries       contour
  route         checkout gateway-system/shared projectcontour.io/gateway-controller

Conditions
  Ready=True   115m   Healthy   stable serves

History
  r6   Promoted      115m ago   took 5m30s
";
    assert_eq!(text, expected);
}

#[test]
fn a_rollback_marks_the_step_it_turned_back_from_and_says_why() {
    let text = detail(&fixtures::rolling_back(), fixtures::now());
    assert!(text.contains("  ✗    10 %"), "{text}");
    assert!(
        text.contains("rolling back for 2s: Verdict: errors: 5.0 % against 0.1 %"),
        "{text}"
    );
    assert!(text.contains("intended 0 %   accepted 10 %"), "{text}");
}

#[test]
fn a_failed_verdict_names_its_rule() {
    let mut rollout = fixtures::rolling_back();
    let status = rollout.status.as_mut().unwrap();
    status.verdict = Some("Fail".to_owned());
    status.run.as_mut().unwrap().rule = Some("OverMax".to_owned());
    let text = detail(&rollout, fixtures::now());
    assert!(text.contains("Verdict   Fail by OverMax\n"), "{text}");
}

#[test]
fn a_pause_says_who_is_waited_for() {
    let approval = detail(&fixtures::paused(PauseReason::Approval), fixtures::now());
    assert!(
        approval.contains("waiting for an approval (promote) for 10s"),
        "{approval}"
    );
    assert!(approval.contains("  ‖    50 %"), "{approval}");
    let command = detail(&fixtures::paused(PauseReason::Command), fixtures::now());
    assert!(command.contains("paused by a person (resume)"), "{command}");
}

#[test]
fn each_pause_says_what_ends_it() {
    for (why, words) in [
        (
            PauseReason::Contention,
            "somebody else keeps taking the weights back (resume)",
        ),
        (PauseReason::Retreats, "it retreated too often (resume)"),
    ] {
        let text = detail(&fixtures::paused(why), fixtures::now());
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_retreat_says_why_how_often_and_what_it_waits_for() {
    let text = detail(&fixtures::retreated(), fixtures::now());
    for words in [
        "Retreated   step 2/4",
        "all traffic on stable for 20s: all pods of the canary went: it goes on when they are ready",
        "  ↓    30 %",
        "Retreats  2 (2 PodsLost)",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn a_newer_version_that_waits_is_said() {
    let text = detail(&fixtures::promoting(), fixtures::now());
    assert!(
        text.contains("Newer     template checkout-r8 came meanwhile and gets its own run"),
        "{text}"
    );
}

#[test]
fn restoring_says_who_carries_the_traffic_why_and_what_is_put_back() {
    let text = detail(&fixtures::restoring(), fixtures::now());
    for words in [
        "the Deployment rolls back to stable for 10s, the canary carries the traffic: Aborted: aborted by a person",
        "✗   100 %",
        "mending       template checkout-r6 is being put into the Deployment",
        "mended        a recorded template was put into the Deployment, times in the last hour: 1",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn at_rest_it_says_what_was_put_back_and_what_rolls_natively() {
    let mut rollout = fixtures::failed();
    let status = rollout.status.as_mut().unwrap();
    status.failed.as_mut().unwrap().put_back = true;
    status.native = Some(Cause {
        reason: "NothingToProtect".into(),
        detail: "stable has no pods".into(),
    });
    let text = detail(&rollout, fixtures::now());
    for words in [
        "should it come again, it is held as failed",
        "rolls         natively, without steps: NothingToProtect: stable has no pods",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn a_failure_is_told_with_the_command_that_was_refused() {
    let text = detail(&fixtures::failed(), fixtures::now());
    assert!(
        text.contains("failed        template checkout-r7 in run r7: Verdict: errors: 5.0 %"),
        "{text}"
    );
    assert!(text.contains("promote: refused: step 1 is over"), "{text}");
}

#[test]
fn an_edit_that_the_operator_has_not_seen_is_said() {
    let mut rollout = fixtures::healthy();
    rollout.metadata.generation = Some(2);
    assert!(detail(&rollout, fixtures::now()).contains("latest edit"));
    rollout.status = None;
    assert_eq!(
        detail(&rollout, fixtures::now()),
        "shop/checkout   the operator has not looked at it yet\n"
    );
}

#[test]
fn the_table_has_a_line_a_rollout() {
    let rollouts = [fixtures::stepping(1), fixtures::healthy()];
    assert_eq!(
        overview(&rollouts, false, fixtures::now()),
        "\
NAME       PHASE      STEP   WEIGHT   VERDICT               AGE   MESSAGE
checkout   Stepping   2/4      30 %   InsufficientTraffic    3h   1,204 of about 3,000 requests
checkout   Healthy    -           -   -                      3h   checkout-7d4 serves
"
    );
    assert!(overview(&rollouts, true, fixtures::now()).starts_with("NAMESPACE   NAME"));
}
