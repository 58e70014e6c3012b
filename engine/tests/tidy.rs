//! Tidy: what rustfmt and clippy can't check, read off the sources.
//!
//! Each rule is a function from one file's text to what is wrong with it, so each is tested here
//! with a planted violation. The last tests run all of them over the tree.
//!
//! What it can't see: meaning. A rule reads words in code whose comments and strings are blanked out
//! ([`tidy::source`]), not types; what a macro makes of them is out of its sight.

mod tidy {
    pub mod planted;
    pub mod rules;
    pub mod source;
    pub mod tree;
}
