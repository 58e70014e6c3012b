//! How a message lies in a body: rkyv's layout, written and read by hand.
//!
//! The byte strings come first, in field order, without padding. The fixed part is the last bytes
//! of the body: each field in its order, integers little-endian, ids as their 16 bytes, and a
//! byte string as a signed 32-bit offset from that very field to its bytes and an unsigned 32-bit
//! length.

use crate::bytes::Short;
use crate::messages::Value;
use alloc::vec::Vec;

/// What is wrong with some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The frame does not begin with the magic.
    #[error("the frame does not begin with \"TCT1\": the peer does not speak Tercet's protocol")]
    Magic,
    /// Another version of the protocol.
    #[error("protocol version {got} is not spoken here; use version 1")]
    Version {
        /// The version that the header names.
        got: u8,
    },
    /// A reserved bit is set.
    #[error("reserved flags {got:#04x} are set; every flag bit must be zero")]
    Flags {
        /// The flags that the header carries.
        got: u8,
    },
    /// The body is longer than the limit.
    #[error("a body of {length} bytes is over the limit of {max}")]
    TooLarge {
        /// The length that the header names, in bytes.
        length: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The checksum does not match.
    #[error("the frame's checksum does not match its bytes")]
    Checksum,
    /// The body is not a message of its kind.
    #[error("the body is not a well-formed message of its kind")]
    Malformed,
}

impl From<Short> for WireError {
    fn from(_: Short) -> WireError {
        WireError::Malformed
    }
}

/// A field of a message: how it is written and read by hand.
pub(crate) trait Field<'a>: Sized {
    /// Bytes in the fixed part.
    const FIXED: usize;
    /// Writes what lies outside the fixed part and says where it begins in the body.
    fn write_out(&self, body_start: usize, out: &mut Vec<u8>) -> usize;
    /// Writes the fixed part into its place, which begins at `pos` of the body; `at` is what [`Field::write_out`] gave.
    fn write_fixed(&self, at: usize, pos: usize, place: &mut [u8]);
    /// Reads the field whose fixed part begins at `pos` of `body`.
    fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError>;
    /// Shows what it holds, under its name.
    fn show(&self, name: &'static str, each: &mut dyn FnMut(&'static str, Value<'_>));
}

macro_rules! integer {
    ($($ty:ty, $value:ident;)*) => {$(
        impl<'a> Field<'a> for $ty {
            const FIXED: usize = size_of::<$ty>();
            fn write_out(&self, _: usize, _: &mut Vec<u8>) -> usize {
                0
            }
            #[inline]
            fn write_fixed(&self, _: usize, _: usize, place: &mut [u8]) {
                place.copy_from_slice(&self.to_le_bytes());
            }
            fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError> {
                let bytes = body.get(pos..pos + Self::FIXED).ok_or(WireError::Malformed)?;
                Ok(<$ty>::from_le_bytes(bytes.try_into().expect("the slice has the field's size")))
            }
            fn show(&self, name: &'static str, each: &mut dyn FnMut(&'static str, Value<'_>)) {
                each(name, Value::$value(*self));
            }
        }
    )*};
}
integer!(u8, U8; u16, U16; u32, U32; u64, U64;);

impl<'a> Field<'a> for [u8; 16] {
    const FIXED: usize = 16;
    fn write_out(&self, _: usize, _: &mut Vec<u8>) -> usize {
        0
    }
    #[inline]
    fn write_fixed(&self, _: usize, _: usize, place: &mut [u8]) {
        place.copy_from_slice(self);
    }
    fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError> {
        let bytes = body.get(pos..pos + 16).ok_or(WireError::Malformed)?;
        Ok(bytes.try_into().expect("the slice has 16 bytes"))
    }
    fn show(&self, name: &'static str, each: &mut dyn FnMut(&'static str, Value<'_>)) {
        each(name, Value::Id(*self));
    }
}

impl<'a> Field<'a> for &'a [u8] {
    const FIXED: usize = 8;
    fn write_out(&self, body_start: usize, out: &mut Vec<u8>) -> usize {
        let at = out.len() - body_start;
        out.extend_from_slice(self);
        at
    }
    #[inline]
    fn write_fixed(&self, at: usize, pos: usize, place: &mut [u8]) {
        let offset = i32::try_from(at as i64 - pos as i64).expect("limits keep a body small");
        let length = u32::try_from(self.len()).expect("limits keep a body small");
        place[..4].copy_from_slice(&offset.to_le_bytes());
        place[4..].copy_from_slice(&length.to_le_bytes());
    }
    fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError> {
        let offset = u32::read(body, pos)?.cast_signed();
        let length = u32::read(body, pos + 4)?;
        let start = usize::try_from(pos as i64 + i64::from(offset));
        let start = start.map_err(|_| WireError::Malformed)?;
        let end = start.checked_add(length as usize).ok_or(WireError::Malformed)?;
        body.get(start..end).ok_or(WireError::Malformed)
    }
    fn show(&self, name: &'static str, each: &mut dyn FnMut(&'static str, Value<'_>)) {
        each(name, Value::Bytes(self));
    }
}

/// How a plain field and an archived one become each other.
#[cfg(feature = "archive")]
pub(crate) mod archive {
    use crate::request::Call;
    use alloc::vec::Vec;
    use rkyv::rend::unaligned::{u16_ule, u32_ule, u64_ule};
    use rkyv::vec::ArchivedVec;

    /// The type that rkyv serializes for a field.
    pub trait Own {
        type Owned;
        fn own(&self) -> Self::Owned;
    }
    /// The plain field out of an archived one. None: it is none of its choices.
    pub trait Get<'a, T> {
        fn get(&'a self) -> Option<T>;
    }
    macro_rules! plain {
        ($($ty:ty, $archived:ty, $it:ident => $get:expr;)*) => {$(
            impl Own for $ty {
                type Owned = $ty;
                fn own(&self) -> $ty {
                    *self
                }
            }
            impl Get<'_, $ty> for $archived {
                #[inline]
                fn get(&self) -> Option<$ty> {
                    let $it = self;
                    Some($get)
                }
            }
        )*};
    }
    plain! {
        u8, u8, it => *it;
        u16, u16_ule, it => it.to_native();
        u32, u32_ule, it => it.to_native();
        u64, u64_ule, it => it.to_native();
        [u8; 16], [u8; 16], it => *it;
    }
    impl Own for &[u8] {
        type Owned = Vec<u8>;
        fn own(&self) -> Vec<u8> {
            self.to_vec()
        }
    }
    impl<'a> Get<'a, &'a [u8]> for ArchivedVec<u8> {
        #[inline]
        fn get(&'a self) -> Option<&'a [u8]> {
            Some(self.as_slice())
        }
    }

    /// What rkyv serializes for a [`Call`].
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub struct OwnedCall {
        session: [u8; 16],
        sequence: u64,
        answered_below: u64,
    }
    impl Own for Call {
        type Owned = OwnedCall;
        fn own(&self) -> OwnedCall {
            let Call { session, sequence, answered_below } = *self;
            OwnedCall { session, sequence, answered_below }
        }
    }
    impl Get<'_, Call> for ArchivedOwnedCall {
        #[inline]
        fn get(&self) -> Option<Call> {
            Some(Call {
                session: self.session,
                sequence: self.sequence.to_native(),
                answered_below: self.answered_below.to_native(),
            })
        }
    }
}
