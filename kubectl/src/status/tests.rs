//! What a person sees.

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
