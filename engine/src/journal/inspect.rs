//! A segment for people: what its pages hold, whoever wrote them.

use super::unit::{self, PAGE_BYTES, Unit, UnitError};

/// What was found in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// A whole unit, of this use of the segment or a former one: the seed tells.
    Unit(Unit<'a>),
    /// The begin of a unit that can't be read.
    Bad {
        /// Where, in bytes.
        offset: usize,
        /// Why.
        error: UnitError,
    },
}

/// Everything that can be told from a segment's bytes alone, in the order of its pages. Pages at
/// which no unit begins are passed over.
///
/// ```
/// assert_eq!(engine::journal::inspect(&[0; 65536]).count(), 0);
/// ```
pub fn inspect(segment: &[u8]) -> impl Iterator<Item = Found<'_>> {
    let mut offset = 0;
    core::iter::from_fn(move || {
        while offset < segment.len() {
            let here = offset;
            match unit::read(segment, here) {
                Ok(unit) => {
                    offset = unit.end();
                    return Some(Found::Unit(unit));
                }
                Err(UnitError::Absent) => offset += PAGE_BYTES,
                Err(error) => {
                    offset += PAGE_BYTES;
                    return Some(Found::Bad { offset: here, error });
                }
            }
        }
        None
    })
}
