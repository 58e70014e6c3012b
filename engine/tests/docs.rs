//! The documents: what they say of the code is read off the code, their links lead somewhere, their sentences are
//! short.
//!
//! Tables that follow from the code alone stand between two marks, and `make docs` writes them. What a table needs
//! beyond the code is written by hand, and held to the code's list here.
//!
//! What it can't see: whether a sentence is true.

mod docs {
    pub mod links;
    pub mod mutants;
    pub mod names;
    pub mod numbers;
    pub mod pages;
    pub mod prose;
    #[cfg(feature = "edge")]
    pub mod server;
}
