//! Tenants' PromQL: what is read, what is refused and where, and that no selector gets out of its namespace, whatever is written.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "fuzz/inputs.rs"]
mod inputs;

use inputs::fuzz;
use proptest::prelude::*;
use stepgate::promql::{Expr, Matcher, Matching, PromqlError, Selector, Tenant, Time, enforce, parse};
use stepgate::provider::{Arms, asked};

const SHOP: Tenant<'_> = Tenant {
    label: "namespace",
    namespace: "shop",
};

fn enforced(text: &str) -> String {
    enforce(text, &SHOP).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    match enforce(text, &SHOP) {
        Ok(printed) => panic!("{text} is asked as {printed}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_selector_gets_the_matcher_of_the_namespace() {
    for (written, asked) in [
        ("up", r#"up{namespace="shop"}"#),
        ("up{}", r#"up{namespace="shop"}"#),
        (r#"up{job="a",}"#, r#"up{namespace="shop",job="a"}"#),
        // One that is the same already stands there once.
        (r#"up{job="a",namespace="shop"}"#, r#"up{namespace="shop",job="a"}"#),
        (r"{__name__=~'.+'}", r#"{namespace="shop",__name__=~".+"}"#),
        (
            r#"{"my.metric", "a b"='c'}"#,
            r#"{namespace="shop",__name__="my.metric","a b"="c"}"#,
        ),
        (
            "sum(rate(a[5m])) / sum(b)",
            r#"sum(rate(a{namespace="shop"}[5m])) / sum(b{namespace="shop"})"#,
        ),
        ("a or b", r#"a{namespace="shop"} or b{namespace="shop"}"#),
        (
            "a unless on(x) b",
            r#"a{namespace="shop"} unless on (x) b{namespace="shop"}"#,
        ),
        (
            "a * on (pod) group_left (node) b",
            r#"a{namespace="shop"} * on (pod) group_left (node) b{namespace="shop"}"#,
        ),
        (
            "a * ignoring() group_left b",
            r#"a{namespace="shop"} * ignoring () group_left () b{namespace="shop"}"#,
        ),
        // What a label is called in the result changes nothing of what is read.
        (
            r#"label_replace(up, "namespace", "other", "", "")"#,
            r#"label_replace(up{namespace="shop"}, "namespace", "other", "", "")"#,
        ),
        (
            "max_over_time(sum(rate(a[1m]))[5m:30s] @ 1600000000 offset -1h)",
            r#"max_over_time(sum(rate(a{namespace="shop"}[1m]))[5m:30s] @ 1600000000 offset -1h)"#,
        ),
        ("(a + b)[5m:]", r#"(a{namespace="shop"} + b{namespace="shop"})[5m:]"#),
        ("a[5m] offset 1h @ 5", r#"a{namespace="shop"}[5m] @ 5 offset 1h"#),
        ("a @ -5.5", r#"a{namespace="shop"} @ -5.5"#),
        ("absent(a)", r#"absent(a{namespace="shop"})"#),
        (
            "SUM BY (le) (a) > bool 1",
            r#"sum by (le) (a{namespace="shop"}) > bool 1"#,
        ),
        (
            "quantile(0.9, a) without (x, y,)",
            r#"quantile without (x, y) (0.9, a{namespace="shop"})"#,
        ),
        (
            "count_values(`v`, job:a:sum)",
            r#"count_values("v", job:a:sum{namespace="shop"})"#,
        ),
        ("a # up{namespace=\"other\"}\n+ 1", r#"a{namespace="shop"} + 1"#),
        // No series is read.
        ("time() + 1h - 0x1F * -1e3 ^ 2", "(time() + 1h) - (0x1F * (-(1e3 ^ 2)))"),
        ("scalar(vector(NaN))", "scalar(vector(NaN))"),
    ] {
        assert_eq!(enforced(written), asked, "{written}");
    }
}

#[test]
fn a_string_stays_a_string() {
    for (written, asked) in [
        (r#"a{b="\"} or up{\""}"#, r#"a{namespace="shop",b="\"} or up{\""}"#),
        (r#"a{b='"} or up{"'}"#, r#"a{namespace="shop",b="\"} or up{\""}"#),
        ("a{b=`\\\"} or up{`}", r#"a{namespace="shop",b="\\\"} or up{"}"#),
        (r#"a{b="\x22} or up{\x22"}"#, r#"a{namespace="shop",b="\"} or up{\""}"#),
        (r#"a{b="\042\u0007\n"}"#, r#"a{namespace="shop",b="\"\u0007\n"}"#),
        (r#"{"a} or up{"}"#, r#"{namespace="shop",__name__="a} or up{"}"#),
        (
            r#"sum by ("a) (up) + (b") (c)"#,
            r#"sum by ("a) (up) + (b") (c{namespace="shop"})"#,
        ),
    ] {
        assert_eq!(enforced(written), asked, "{written}");
        assert_eq!(parse(asked).map(|read| read.to_string()), Ok(asked.to_owned()));
    }
}

#[test]
fn what_asks_for_other_namespaces_is_refused_by_its_matcher() {
    for matcher in [
        r#"namespace="other""#,
        r#"namespace!="shop""#,
        r#"namespace!="other""#,
        r#"namespace=~".*""#,
        r#"namespace=~"shop""#,
        r#"namespace!~"x""#,
        r#"namespace="""#,
    ] {
        for query in [
            format!("up{{{matcher}}}"),
            format!("sum(a) + max_over_time(rate(b{{namespace=\"shop\", {matcher}}}[5m])[1h:])"),
        ] {
            let said = refused(&query);
            assert!(
                said.contains(&format!("`{matcher}` asks for other namespaces")),
                "{query}: {said}"
            );
            assert!(said.contains(r#"namespace="shop" is put in"#), "{said}");
        }
    }
    // The label in quotes, and with an escape, is the same label.
    assert!(refused(r#"up{"namespace"="other"}"#).contains(r#"`namespace="other"` asks"#));
    assert!(refused(r#"up{"n\x61mespace"=~".+"}"#).contains(r#"`namespace=~".+"` asks"#));
    assert!(refused("{}").contains("selects every series"));
    assert!(refused("info(a)").contains("info() reads series of other namespaces"));
    let by_team = Tenant {
        label: "team",
        namespace: "shop",
    };
    assert_eq!(
        enforce(r#"up{namespace="x"}"#, &by_team),
        Ok(r#"up{team="shop",namespace="x"}"#.to_owned())
    );
}

#[test]
fn what_is_no_promql_is_refused_with_its_place() {
    for (written, said) in [
        ("", "at character 1, the end: an expression is expected here"),
        (
            "sum(up",
            "at character 7, the end: an operator, `,` or `)` is expected here",
        ),
        (
            "sum(up))",
            "at character 8, before `)`: an operator or the end is expected here",
        ),
        (
            "a b",
            "at character 3, before `b`: an operator or the end is expected here",
        ),
        ("a +", "at character 4, the end: an expression is expected here"),
        (
            "rate(a[5])[5m]",
            "at character 11, before `[5m]`: a range belongs after a selector",
        ),
        (
            "a[5min]",
            "at character 3, before `5min]`: neither a number nor a duration",
        ),
        (
            "a[1h30]",
            "at character 3, before `1h30]`: neither a number nor a duration",
        ),
        ("a[1e300]", "at character 3, before `1e300]`"),
        ("a[-5m]", "at character 3, before `-5m]`: a duration is expected here"),
        ("a[$__interval]", "at character 3, before `$__interval]`: a duration"),
        (
            "a{b=c}",
            "at character 5, before `c}`: a value in quotes is expected here",
        ),
        (
            "a{b}",
            "at character 4, before `}`: `=`, `!=`, `=~` or `!~` is expected after a label",
        ),
        (
            r#"a{b="c" d="e"}"#,
            "at character 9, before `d=\\\"e\\\"}`: `,` or `}` is expected between matchers",
        ),
        (
            r#"{a="b" or c="d"}"#,
            "at character 8, before `or c=\\\"d\\\"}`: `or` between matchers is not PromQL",
        ),
        (r#"a{b="c}"#, "at character 5, before `\\\"c}`: this string has no end"),
        (
            r#"a{b="\d"}"#,
            "at character 6, before `\\\\d\\\"}`: no escape of a string in PromQL",
        ),
        (r#"a{b="\xff"}"#, "no escape of a string"),
        ("a @ start()", "a time in Unix seconds is expected after `@`"),
        (
            "sum offset 5m",
            "at character 1, before `sum offset 5`: `sum` is an aggregation",
        ),
        ("by{a=\"b\"}", "`by` is a word of PromQL"),
        (
            "(a) offset 5m",
            "at character 5, before `offset 5m`: `offset` belongs once after a selector or a subquery",
        ),
        ("a offset 5m offset 1m", "at character 13, before `offset 1m`"),
        (
            "1_000",
            "at character 1, before `1_000`: neither a number nor a duration",
        ),
        ("a + ü", "at character 5, before `ü`: an expression is expected here"),
    ] {
        let found = refused(written);
        assert!(found.contains(said), "{written}: {found}");
    }
    let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
    assert!(refused(&deep).contains("more than 64 levels within each other"));
}

fn arms() -> Arms {
    Arms {
        namespace: "shop".to_owned(),
        stable_service: "checkout".to_owned(),
        canary_service: "checkout-canary".to_owned(),
        port: 80,
        routes: vec!["checkout".to_owned(), "api.v1".to_owned()],
        stable_replica_set: "checkout-7d4".to_owned(),
        canary_deployment: "checkout-canary".to_owned(),
    }
}

#[test]
fn a_query_names_the_canary_by_the_words_of_the_providers_templates() {
    let query = r#"max(q{pod=~"${canaryPods}",service="${canaryService}"}) / max(q{pod=~"${stablePods}",route=~"${routes}",p="${port}"})"#;
    assert_eq!(
        asked(query, &arms(), Some("namespace")).as_deref(),
        Ok(
            r#"max(q{namespace="shop",pod=~"checkout-canary-[a-z0-9]+-[a-z0-9]{5}",service="checkout-canary"}) / max(q{namespace="shop",pod=~"checkout-7d4-[a-z0-9]{5}",route=~"(checkout|api\\.v1)",p="80"})"#
        )
    );
    // The Rollout's own namespace may be written, and by its word.
    assert_eq!(
        asked(r#"q{namespace="${namespace}"}"#, &arms(), Some("namespace")).as_deref(),
        Ok(r#"q{namespace="shop"}"#)
    );
    for word in ["${canary}", "${", "${arm}"] {
        let said = asked(&format!("q{{a=\"{word}\"}}"), &arms(), None)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("is unknown or has no end; known are ${namespace}, ${stableService}"),
            "{said}"
        );
    }
}

#[test]
fn where_the_administrator_lets_everybody_see_everything_the_text_stays_as_it_is() {
    let text = r#"q{namespace="other"} default 0 # "${port}" of MetricsQL"#;
    assert_eq!(
        asked(text, &arms(), None).as_deref(),
        Ok(r#"q{namespace="other"} default 0 # "80" of MetricsQL"#)
    );
    assert!(asked(text, &arms(), Some("namespace")).is_err());
}

fn words(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(of).prop_map(str::to_owned)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        words(&["", "shop", "other", ".*", "a} or up{", "\"", "\\", "\n", "#", "ü"]),
        any::<String>()
    ]
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![4 => words(&["job", "pod", "le", "by", "or", "__name__", "_x1", "namespace"]), 1 => any_text()]
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(label(), 0..3)
}

fn duration() -> impl Strategy<Value = String> {
    words(&["5m", "1h30m", "300", "15ms", "2w", "1.5"])
}

fn time() -> impl Strategy<Value = Time> {
    let at = prop::option::weighted(0.2, words(&["1600000000", "5.25", "-3"]));
    let offset =
        (prop::bool::ANY, duration()).prop_map(|(back, length)| if back { length } else { format!("-{length}") });
    (at, prop::option::weighted(0.2, offset)).prop_map(|(at, offset)| Time { at, offset })
}

fn selector() -> impl Strategy<Value = Expr> {
    let op = prop::sample::select(&["=", "!=", "=~", "!~"][..]);
    let matcher = (label(), op, any_text()).prop_map(|(label, op, value)| Matcher { label, op, value });
    let name = prop::option::weighted(
        0.8,
        words(&["up", "a:b:c", "start", "infinite", "_", "summary", "fill"]),
    );
    (
        name,
        prop::collection::vec(matcher, 0..4),
        prop::option::weighted(0.3, duration()),
        time(),
    )
        .prop_map(|(name, matchers, range, time)| {
            Expr::Selector(Selector {
                name,
                matchers,
                range,
                time,
            })
        })
}

fn matching() -> impl Strategy<Value = Matching> {
    let on = (prop::sample::select(&["on", "ignoring"][..]), labels());
    let group = (prop::sample::select(&["group_left", "group_right"][..]), labels());
    let both = prop::option::of((on, prop::option::of(group)));
    (prop::bool::ANY, both).prop_map(|(bool, both)| {
        let (labels, group) = both.map_or((None, None), |(labels, group)| (Some(labels), group));
        Matching { bool, labels, group }
    })
}

fn expression() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        6 => selector(),
        1 => words(&["1", ".5", "0x1F", "1e-9", "Inf", "NaN", "1h30m"]).prop_map(Expr::Number),
        1 => any_text().prop_map(Expr::Text),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..3);
        let op = prop::sample::select(
            &[
                "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "^", "or", "and", "unless", "atan2",
            ][..],
        );
        let grouping = prop::option::of((prop::sample::select(&["by", "without"][..]), labels()));
        prop_oneof![
            (words(&["rate", "time", "label_replace", "end"]), many.clone())
                .prop_map(|(name, arguments)| Expr::Call { name, arguments }),
            (words(&["sum", "topk", "count_values"]), grouping, many).prop_map(|(op, grouping, arguments)| {
                Expr::Aggregate {
                    op,
                    grouping,
                    arguments,
                }
            }),
            (prop::sample::select(&['+', '-'][..]), inner.clone())
                .prop_map(|(sign, of)| Expr::Unary { sign, of: Box::new(of) }),
            (inner.clone(), duration(), prop::option::of(duration()), time()).prop_map(|(of, range, step, time)| {
                Expr::Subquery {
                    of: Box::new(of),
                    range,
                    step,
                    time,
                }
            }),
            (op, matching(), inner.clone(), inner).prop_map(|(op, matching, left, right)| Expr::Binary {
                op,
                matching,
                left: Box::new(left),
                right: Box::new(right),
            }),
        ]
    })
}

/// All selectors in an expression.
fn selectors(expression: &Expr) -> Vec<&Selector> {
    match expression {
        Expr::Number(_) | Expr::Text(_) => Vec::new(),
        Expr::Selector(selector) => vec![selector],
        Expr::Subquery { of, .. } | Expr::Unary { of, .. } => selectors(of),
        Expr::Call { arguments, .. } | Expr::Aggregate { arguments, .. } => {
            arguments.iter().flat_map(selectors).collect()
        }
        Expr::Binary { left, right, .. } => [left, right].into_iter().flat_map(|side| selectors(side)).collect(),
    }
}

/// Whether what is asked in place of a text stays in the namespace, and is that text's expression in all else.
fn stays_in_the_namespace(text: &str) {
    let Ok(written) = parse(text) else { return };
    let printed = written.to_string();
    assert_eq!(parse(&printed).as_ref(), Ok(&written), "{text} prints as {printed}");
    let asked = match enforce(text, &SHOP) {
        Ok(asked) => asked,
        Err(PromqlError::Syntax { .. }) => panic!("{text} was read before"),
        Err(_) => return,
    };
    let read = parse(&asked).expect("what is asked can be read");
    let (all, before) = (selectors(&read), selectors(&written));
    assert_eq!(all.len(), before.len(), "{asked}");
    for (selector, before) in all.iter().zip(before) {
        let own: Vec<&Matcher> = selector
            .matchers
            .iter()
            .filter(|matcher| matcher.label == "namespace")
            .collect();
        assert!(
            matches!(own[..], [Matcher { op: "=", value, .. }] if value == "shop"),
            "{text} is asked as {asked}"
        );
        let others = |of: &Selector| -> Vec<Matcher> {
            of.matchers
                .iter()
                .filter(|matcher| matcher.label != "namespace")
                .cloned()
                .collect()
        };
        assert_eq!(
            (&selector.name, &selector.range, &selector.time),
            (&before.name, &before.range, &before.time)
        );
        assert_eq!(others(selector), others(before));
    }
    assert_eq!(
        enforce(&asked, &SHOP).as_ref(),
        Ok(&asked),
        "asked once more it is the same"
    );
}

#[test]
fn whatever_expression_is_printed_is_read_as_the_same() {
    fuzz(expression(), |expression| {
        let printed = expression.to_string();
        assert_eq!(parse(&printed), Ok(expression), "{printed}");
        stays_in_the_namespace(&printed);
    });
}

#[test]
fn whatever_is_written_stays_in_the_namespace() {
    const SEEDS: [&str; 8] = [
        r#"histogram_quantile(0.9, sum by (le) (rate(http_bucket{job="a",code!~"5.."}[5m] offset 1h)))"#,
        r#"sum(a{namespace="shop"}) / on () group_left (x) (b unless {__name__=~"c.+"})"#,
        "max_over_time(deriv(rate(distance[5s])[30s:5s] @ 1600000000)[10m:])",
        r#"label_replace(up{job='a\x41"'}, `b`, "$1", "c", "(.*)") > bool -1.5e3 ^ 2"#,
        r#"{"http.requests", "a b"="c"} and topk(3, d) without (e,) # f"#,
        r#"a{b="\"}or up{\""} atan2 0x1f % 1h30m"#,
        "((a) + (b))[5m:1m]",
        "{}",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(b"{}[]()\"'`,:=!~+-*/^@#\\ \n059.amsxe".as_slice()).prop_map(|byte| char::from(byte).to_string()),
        2 => words(&["or", "and", "by", "on", "offset", "up", "namespace", "sum", "\"other\"", "=~", "group_left", "bool"]),
        1 => any::<char>().prop_map(String::from),
    ];
    let edit = (
        any::<prop::sample::Index>(),
        0_usize..6,
        prop::collection::vec(piece, 0..5),
    );
    let changed = (prop::sample::select(&SEEDS[..]), prop::collection::vec(edit, 0..4)).prop_map(|(seed, edits)| {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, gone, come) in edits {
            let from = at.index(text.len() + 1);
            let to = (from + gone).min(text.len());
            text.splice(from..to, come.concat().chars());
        }
        text.into_iter().collect::<String>()
    });
    fuzz(changed, |text| stays_in_the_namespace(&text));
}
