//! Several operators for one namespace: the leader is killed, hangs past its lease with and without a write under way, is cut off from the API
//! server, or has a wrong clock, and another goes on with the same run. Every stored version is held against the rules that
//! stored versions alone can show.

#[cfg(test)]
mod leadership {
    mod clocks;
    mod in_flight;
    mod lost;
    mod several;
}
