//! The kinds of the API group `stepgate.dev`.
