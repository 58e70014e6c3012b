//! The journal against a disk made of byte arrays and an oracle made of vectors.

mod basics;
mod crash;
mod damage;
mod lost;
mod world;
