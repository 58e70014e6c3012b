//! Links between the engines of this node and their twins on the others.

mod addresses;

pub use addresses::AddressBook;
