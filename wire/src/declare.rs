//! How a message is declared: once, field by field, and all that anybody needs of it follows.
//!
//! `messages!` declares what is read and written; `requests!` declares what a client may ask for, by family.
//! A declaration reads as `docs/protocol.md` does:
//!
//! ```text
//! /// The message was not handled: make it ready again, after a delay. Answered with [`Done`].
//! 0x33 QueueNack<'a> "give back to queue": level 1, gives_back -> Done {
//!     call: call = call(11, 9),
//!     delay_ms: u32 in (0..=LEASE_MS_MAX) = 1_000,
//!     name: name = b"mail",
//! }
//! ```
//!
//! A field is `name: word in (range) = example`. The words:
//!
//! | word | on the wire | in Rust | must be |
//! |---|---|---|---|
//! | `u8` `u16` `u32` `u64` | an integer | the same | in its range, if one is named |
//! | `id` | 16 bytes | `[u8; 16]` | anything |
//! | `session` | 16 bytes | `[u8; 16]` | not all zero |
//! | `call` | `session`, `sequence`, `answered_below` | [`Call`](crate::request::Call) | [what makes a call](crate::request::Call::vet) |
//! | `name` | a byte string | `&[u8]` | 1 to [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX) bytes; it decides the shard |
//! | `value` | a byte string | `&[u8]` | at most [`VALUE_BYTES_MAX`](crate::limits::VALUE_BYTES_MAX) bytes |
//! | `bytes` | a byte string | `&[u8]` | anything |
//! | a choice | a `u8` | its enum | one of its numbers, or of those named |
//!
//! From a declaration follow the struct with `encode`, `decode` and `view`, and its row in
//! [`messages::all`](crate::messages::all): what documents, golden vectors and other languages are written from. From that
//! of a request follow also its variant of [`Request`](crate::Request) and its [`Facts`](crate::request::Facts).

/// Declares messages.
macro_rules! messages {
    ($all:ident: $(
        $(#[doc = $doc:literal])*
        $kind:literal $name:ident $(<$lt:lifetime>)? {
            $($(#[doc = $fdoc:literal])* $field:ident: $word:ident $(in $range:tt)? = $example:expr,)*
        }
    )*) => {
        $($crate::declare::message! {
            $(#[doc = $doc])*
            $kind $name $(<$lt>)? {
                $($(#[doc = $fdoc])* $field: $word $(in $range)? = $example,)*
            }
        })*
        /// What was declared here, in its order.
        pub(crate) static $all: &[&$crate::messages::Message] = &[$($name::MESSAGE,)*];
    };
}
pub(crate) use messages;

/// Declares requests, by family: their messages, one enum for each family, and [`Request`](crate::Request).
macro_rules! requests {
    ($all:ident: $(
        $(#[doc = $gdoc:literal])*
        $family:ident $group:ident $(<$glt:lifetime>)? {
            $(
                $(#[doc = $doc:literal])*
                $kind:literal $name:ident $(<$lt:lifetime>)? $phrase:literal:
                level $level:literal $(, $flag:ident)* -> $answer:ident {
                    $($(#[doc = $fdoc:literal])* $field:ident: $word:ident $(in $range:tt)? = $example:expr,)*
                }
            )*
        }
    )*) => {
        $($($crate::declare::message! {
            $(#[doc = $doc])*
            $kind $name $(<$lt>)? {
                $($(#[doc = $fdoc])* $field: $word $(in $range)? = $example,)*
            }
        })*)*
        /// What was declared here, in its order.
        pub(crate) static $all: &[&$crate::messages::Message] = &[$($($name::MESSAGE,)*)*];

        /// Every request, in the order of the declarations.
        pub static FACTS: &[&$crate::request::Facts] = &[$($($name::FACTS,)*)*];

        $($(impl $(<$lt>)? $name $(<$lt>)? {
            /// What is known of the kind.
            pub const FACTS: &'static $crate::request::Facts = &$crate::request::Facts {
                family: $crate::request::Family::$family,
                level: $level,
                phrase: $phrase,
                answer: $answer::KIND,
                is_call: false $(|| $crate::declare::is_call!($word))*,
                $($flag: true,)*
                ..$crate::request::Facts::of($name::MESSAGE)
            };
        })*)*

        $(
            $(#[doc = $gdoc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            #[allow(missing_docs, reason = "each variant is its message")]
            pub enum $group $(<$glt>)? { $($name($name $(<$lt>)?),)* }
        )*

        /// A request, vetted: what is right or wrong by itself was looked at.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "each variant is its family")]
        pub enum Request<'a> { $($family($group $(<$glt>)?),)* }

        $($(impl<'a> From<$name $(<$lt>)?> for Request<'a> {
            fn from(request: $name $(<$lt>)?) -> Request<'a> {
                Request::$family($group::$name(request))
            }
        })*)*

        #[allow(unused_variables, reason = "not each field has a say in each question")]
        impl<'a> Request<'a> {
            /// Reads and vets a body by hand, as a client does.
            ///
            /// # Errors
            /// [`Code::UnknownKind`], [`Code::BadMessage`] for a malformed body or a field out of its range,
            /// [`Code::TooLarge`] for a name or a value over its limit, [`Code::Busy`] for a call too far ahead of
            /// what was answered.
            pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Request<'a>, Code> {
                let request = Request::read(kind, body)?;
                match &request { $($(Request::$family($group::$name(it)) => it.vet()?,)*)* }
                Ok(request)
            }

            /// Reads a body by hand that is not to be vetted: the reader's own, which waits to be sent.
            ///
            /// # Errors
            /// [`Code::UnknownKind`], and [`Code::BadMessage`] for a malformed body.
            pub fn read(kind: Kind, body: &'a [u8]) -> Result<Request<'a>, Code> {
                match kind {
                    $($($name::KIND => {
                        let it = $name::decode(body).map_err(|_| Code::BadMessage)?;
                        Ok(Request::$family($group::$name(it)))
                    })*)*
                    _ => Err(Code::UnknownKind),
                }
            }

            /// Reads and vets a body in place through rkyv's checked access, as the server does.
            ///
            /// # Errors
            /// Those of [`Request::decode`].
            #[cfg(feature = "archive")]
            #[inline]
            pub fn view(kind: Kind, body: &'a [u8]) -> Result<Request<'a>, Code> {
                match kind {
                    $($($name::KIND => {
                        let it = $name::view(body).map_err(|_| Code::BadMessage)?;
                        it.vet()?;
                        Ok(Request::$family($group::$name(it)))
                    })*)*
                    _ => Err(Code::UnknownKind),
                }
            }

            /// What is known of the request's kind.
            #[inline]
            pub fn facts(&self) -> &'static $crate::request::Facts {
                match self { $($(Request::$family($group::$name(_)) => $name::FACTS,)*)* }
            }

            /// The same, of a kind. None: it is no request.
            #[inline]
            pub fn facts_of(kind: Kind) -> Option<&'static $crate::request::Facts> {
                match kind { $($($name::KIND => Some($name::FACTS),)*)* _ => None }
            }

            /// What makes it exactly-once; none for what is no call.
            #[inline]
            pub fn call(&self) -> Option<$crate::request::Call> {
                match self {
                    $($(Request::$family($group::$name($name { $($field,)* })) => {
                        None $(.or($crate::declare::call_of!($word $field)))*
                    })*)*
                }
            }

            /// Sets what makes it exactly-once, if it is a call.
            pub fn set_call(&mut self, call: $crate::request::Call) {
                match self {
                    $($(Request::$family($group::$name($name { $($field,)* })) => {
                        $($crate::declare::set_call!($word $field call);)*
                    })*)*
                }
            }

            /// The name that decides the shard; none where none does.
            pub fn name(&self) -> Option<&'a [u8]> {
                self.route().name
            }

            /// From which feature level on its kind exists and all that its fields say has that meaning.
            pub fn level(&self) -> u32 {
                self.route().level
            }

            /// What routing needs, at once.
            #[inline]
            pub fn route(&self) -> $crate::request::Route<'a> {
                match self {
                    $($(Request::$family($group::$name($name { $($field,)* })) => $crate::request::Route {
                        name: None $(.or($crate::declare::name_of!($word $field)))*,
                        call: None $(.or($crate::declare::call_of!($word $field)))*,
                        level: $crate::request::highest(&[$level $(, $crate::declare::level_of!($word $field))*]),
                    },)*)*
                }
            }

            /// How long its answer may wait for others, in milliseconds.
            pub fn wait_ms(&self) -> u32 {
                match self {
                    $($(Request::$family($group::$name($name { $($field,)* })) => {
                        0 $(+ $crate::declare::wait_of!($field $field))*
                    })*)*
                }
            }

            /// Has its answer wait for others no longer than that, if it may wait at all.
            pub fn set_wait_ms(&mut self, to_ms: u32) {
                match self {
                    $($(Request::$family($group::$name($name { $($field,)* })) => {
                        $($crate::declare::set_wait!($field $field to_ms);)*
                    })*)*
                }
            }

            /// Appends its body.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self { $($(Request::$family($group::$name(it)) => it.encode(out),)*)* }
            }

            /// A request of a kind, drawn field by field. None: the kind is no request.
            pub fn draw(kind: Kind, from: &mut impl $crate::request::Draw<'a>) -> Option<Request<'a>> {
                Some(match kind {
                    $($($name::KIND => Request::$family($group::$name($name {
                        $($field: $crate::declare::draw!($word [$($range)?] $field from),)*
                    })),)*)*
                    _ => return None,
                })
            }
        }
    };
}
pub(crate) use requests;

/// Declares a message.
macro_rules! message {
    ($(#[doc = $doc:literal])* $kind:literal $name:ident $(<$lt:lifetime>)? {
        $($(#[doc = $fdoc:literal])* $field:ident: $word:ident $(in $range:tt)? = $example:expr,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name $(<$lt>)? {
            $($(#[doc = $fdoc])* pub $field: $crate::declare::plain!($word),)*
        }

        impl $(<$lt>)? $name $(<$lt>)? {
            /// The kind that a header names for this message.
            pub const KIND: Kind = Kind($kind);
            /// Bytes of the fixed part, at the end of a body.
            pub const FIXED: usize = 0 $(+ <$crate::declare::plain!($word) as Field>::FIXED)*;
            /// How it is declared.
            pub const MESSAGE: &'static $crate::messages::Message = &$crate::messages::Message {
                kind: Kind($kind),
                name: stringify!($name),
                doc: &[$($doc,)*],
                fixed: Self::FIXED,
                fields: &[$($crate::messages::FieldRow {
                    name: stringify!($field),
                    word: stringify!($word),
                    range: concat!($(stringify!($range))?),
                    doc: &[$($fdoc,)*],
                    choices: $crate::declare::choices!($word [$($range)?]),
                },)*],
                example: |out| $name { $($field: $example,)* }.encode(out),
                decode: |body, each| $name::decode(body).map(|it| it.show(each)),
                #[cfg(feature = "archive")]
                view: |body, each| $name::view(body).map(|it| it.show(each)),
                #[cfg(feature = "archive")]
                archived: |body| $name::decode(body).map(|it| it.archived()),
            };

            /// Appends the message's body.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let start = out.len();
                $(let $field = self.$field.write_out(start, out);)*
                let (begin, mut at) = (out.len() - start, 0);
                let mut fixed = [0; Self::FIXED];
                $(
                    let place = &mut fixed[at..at + <$crate::declare::plain!($word) as Field>::FIXED];
                    self.$field.write_fixed($field, begin + at, place);
                    at += place.len();
                )*
                debug_assert_eq!(at, Self::FIXED);
                out.extend_from_slice(&fixed);
            }

            /// Whether each field is within its range.
            #[inline]
            #[allow(clippy::absurd_extreme_comparisons, unused_comparisons, dead_code, reason = "a range may begin at 0")]
            pub(crate) fn vet(&self) -> Result<(), $crate::Code> {
                $($crate::declare::vet!($word [$($range)?] self.$field);)*
                Ok(())
            }

            /// Shows each field.
            fn show(&self, each: &mut dyn FnMut(&'static str, $crate::messages::Value<'_>)) {
                $(self.$field.show(stringify!($field), each);)*
            }
        }

        $crate::declare::message!(@decode $name $(<$lt>)? { $($field: $word,)* });
    };
    (@decode $name:ident <$lt:lifetime> { $($field:ident: $word:ident,)* }) => {
        impl<$lt> $name<$lt> {
            /// Reads a body by hand, as a client does.
            ///
            /// # Errors
            /// [`WireError::Malformed`] when the bytes are no such message.
            pub fn decode(body: &$lt [u8]) -> Result<Self, WireError> {
                $crate::declare::message!(@fields body, $($field: $word,)*);
                Ok($name { $($field,)* })
            }
        }
        $crate::declare::message!(@archive $name [$lt] { $($field: $word,)* });
    };
    (@decode $name:ident { $($field:ident: $word:ident,)* }) => {
        impl $name {
            /// Reads a body by hand, as a client does.
            ///
            /// # Errors
            /// [`WireError::Malformed`] when the bytes are no such message.
            pub fn decode(body: &[u8]) -> Result<Self, WireError> {
                $crate::declare::message!(@fields body, $($field: $word,)*);
                Ok($name { $($field,)* })
            }
        }
        $crate::declare::message!(@archive $name [] { $($field: $word,)* });
    };
    (@fields $body:ident, $($field:ident: $word:ident,)*) => {
        let mut at = $body.len().checked_sub(Self::FIXED).ok_or(WireError::Malformed)?;
        $(
            let $field = <$crate::declare::plain!($word) as Field>::read($body, at)?;
            at += <$crate::declare::plain!($word) as Field>::FIXED;
        )*
        debug_assert_eq!(at, $body.len());
    };
    (@archive $name:ident [$($lt:lifetime)?] { $($field:ident: $word:ident,)* }) => {
        #[cfg(feature = "archive")]
        const _: () = {
            use $crate::layout::archive::{Get, Own};
            #[derive(rkyv::Archive, rkyv::Serialize)]
            #[allow(missing_docs, dead_code)]
            pub struct Owned { $($field: $crate::declare::owned!($word),)* }

            impl $(<$lt>)? $name $(<$lt>)? {
                /// Reads a body in place through rkyv's checked access, as the server does.
                ///
                /// # Errors
                /// [`WireError::Malformed`] when the bytes are no such message.
                #[inline]
                pub fn view(body: & $($lt)? [u8]) -> Result<Self, WireError> {
                    let it = rkyv::access::<ArchivedOwned, rkyv::rancor::Failure>(body)
                        .map_err(|_| WireError::Malformed)?;
                    Ok($name { $($field: it.$field.get().ok_or(WireError::Malformed)?,)* })
                }

                /// The body as rkyv itself serializes it. Tests hold it equal to `encode`'s.
                pub fn archived(&self) -> Vec<u8> {
                    let owned = Owned { $($field: self.$field.own(),)* };
                    let bytes = rkyv::to_bytes::<rkyv::rancor::Failure>(&owned);
                    bytes.expect("memory is all that it needs").into_vec()
                }
            }
        };
    };
}
pub(crate) use message;

/// Declares a choice: numbers with names, each from a feature level on.
macro_rules! choice {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $vdoc:literal])* $number:literal $variant:ident level $level:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $vdoc])* $variant = $number,)* }

        impl $name {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The one of a number.
            #[inline]
            pub fn from_number(number: u8) -> Option<$name> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }

            /// Its number on the wire.
            #[inline]
            pub fn number(self) -> u8 {
                self as u8
            }

            /// From which feature level on it has its meaning.
            #[inline]
            pub fn level(self) -> u32 {
                match self { $($name::$variant => $level,)* }
            }

            pub(crate) const ROWS: &'static [(u8, &'static str)] = &[$(($number, stringify!($variant)),)*];
        }

        impl<'a> Field<'a> for $name {
            const FIXED: usize = 1;
            fn write_out(&self, _: usize, _: &mut Vec<u8>) -> usize {
                0
            }
            #[inline]
            fn write_fixed(&self, _: usize, _: usize, place: &mut [u8]) {
                place.copy_from_slice(&[self.number()]);
            }
            fn read(body: &'a [u8], pos: usize) -> Result<Self, WireError> {
                $name::from_number(u8::read(body, pos)?).ok_or(WireError::Malformed)
            }
            fn show(&self, name: &'static str, each: &mut dyn FnMut(&'static str, $crate::messages::Value<'_>)) {
                each(name, $crate::messages::Value::U8(self.number()));
            }
        }

        #[cfg(feature = "archive")]
        impl $crate::layout::archive::Own for $name {
            type Owned = u8;
            fn own(&self) -> u8 {
                self.number()
            }
        }
        #[cfg(feature = "archive")]
        impl $crate::layout::archive::Get<'_, $name> for u8 {
            #[inline]
            fn get(&self) -> Option<$name> {
                $name::from_number(*self)
            }
        }
    };
}
pub(crate) use choice;

/// The Rust type of a field.
macro_rules! plain {
    (id) => { [u8; 16] };
    (session) => { [u8; 16] };
    (call) => { $crate::request::Call };
    (name) => { &'a [u8] };
    (value) => { &'a [u8] };
    (bytes) => { &'a [u8] };
    ($plain:ident) => { $plain };
}
pub(crate) use plain;

/// The type that rkyv serializes for a field.
#[cfg(feature = "archive")]
macro_rules! owned {
    (u8) => { u8 };
    (u16) => { u16 };
    (u32) => { u32 };
    (u64) => { u64 };
    (id) => { [u8; 16] };
    (session) => { [u8; 16] };
    (call) => { $crate::layout::archive::OwnedCall };
    (name) => { Vec<u8> };
    (value) => { Vec<u8> };
    (bytes) => { Vec<u8> };
    ($choice:ident) => { u8 };
}
#[cfg(feature = "archive")]
pub(crate) use owned;

/// Refuses a field that is out of its range.
macro_rules! vet {
    (session [] $field:expr) => { $crate::request::vet_session($field)? };
    (call [] $field:expr) => { $field.vet()? };
    (name [] $field:expr) => { $crate::request::vet_name($field)? };
    (value [] $field:expr) => { $crate::request::vet_value($field)? };
    (u8 [$range:tt] $field:expr) => { $crate::request::vet_range($range.contains(&$field))? };
    (u16 [$range:tt] $field:expr) => { $crate::request::vet_range($range.contains(&$field))? };
    (u32 [$range:tt] $field:expr) => { $crate::request::vet_range($range.contains(&$field))? };
    (u64 [$range:tt] $field:expr) => { $crate::request::vet_range($range.contains(&$field))? };
    ($choice:ident [($($choices:tt)*)] $field:expr) => {
        $crate::request::vet_range(matches!($field, $($choices)*))?
    };
    ($word:ident [] $field:expr) => {};
}
pub(crate) use vet;

/// The numbers that a field may have, if it is a choice.
macro_rules! choices {
    (u8 $range:tt) => {
        &[]
    };
    (u16 $range:tt) => {
        &[]
    };
    (u32 $range:tt) => {
        &[]
    };
    (u64 $range:tt) => {
        &[]
    };
    (id $range:tt) => {
        &[]
    };
    (session $range:tt) => {
        &[]
    };
    (call $range:tt) => {
        &[]
    };
    (name $range:tt) => {
        &[]
    };
    (value $range:tt) => {
        &[]
    };
    (bytes $range:tt) => {
        &[]
    };
    ($choice:ident $range:tt) => {
        $choice::ROWS
    };
}
pub(crate) use choices;

/// What makes a request a call.
macro_rules! call_of {
    (call $field:ident) => {
        Some(*$field)
    };
    ($word:ident $field:ident) => {
        None
    };
}
pub(crate) use call_of;

/// Whether a field makes its request a call.
macro_rules! is_call {
    (call) => {
        true
    };
    ($word:ident) => {
        false
    };
}
pub(crate) use is_call;

/// Sets it.
macro_rules! set_call {
    (call $field:ident $call:ident) => {
        *$field = $call
    };
    ($word:ident $field:ident $call:ident) => {};
}
pub(crate) use set_call;

/// The name that decides the shard.
macro_rules! name_of {
    (name $field:ident) => {
        Some(*$field)
    };
    ($word:ident $field:ident) => {
        None
    };
}
pub(crate) use name_of;

/// From which level on what a field says has its meaning; of all but choices: from the first.
macro_rules! level_of {
    (u8 $field:ident) => {
        1
    };
    (u16 $field:ident) => {
        1
    };
    (u32 $field:ident) => {
        1
    };
    (u64 $field:ident) => {
        1
    };
    (id $field:ident) => {
        1
    };
    (session $field:ident) => {
        1
    };
    (call $field:ident) => {
        1
    };
    (name $field:ident) => {
        1
    };
    (value $field:ident) => {
        1
    };
    (bytes $field:ident) => {
        1
    };
    ($choice:ident $field:ident) => {
        $field.level()
    };
}
pub(crate) use level_of;

/// How long a request's answer may wait: the field of that name says so.
macro_rules! wait_of {
    (wait_ms $field:ident) => {
        *$field
    };
    ($other:ident $field:ident) => {
        0
    };
}
pub(crate) use wait_of;

/// Sets it.
macro_rules! set_wait {
    (wait_ms $field:ident $to:ident) => {
        *$field = $to
    };
    ($other:ident $field:ident $to:ident) => {};
}
pub(crate) use set_wait;

/// Draws a field.
macro_rules! draw {
    (u8 [] $field:ident $from:ident) => { $crate::declare::draw!(@ u8 (0..=u8::MAX) $field $from) };
    (u16 [] $field:ident $from:ident) => { $crate::declare::draw!(@ u16 (0..=u16::MAX) $field $from) };
    (u32 [] $field:ident $from:ident) => { $crate::declare::draw!(@ u32 (0..=u32::MAX) $field $from) };
    (u64 [] $field:ident $from:ident) => { $crate::declare::draw!(@ u64 (0..=u64::MAX) $field $from) };
    (u8 [$range:tt] $field:ident $from:ident) => { $crate::declare::draw!(@ u8 $range $field $from) };
    (u16 [$range:tt] $field:ident $from:ident) => { $crate::declare::draw!(@ u16 $range $field $from) };
    (u32 [$range:tt] $field:ident $from:ident) => { $crate::declare::draw!(@ u32 $range $field $from) };
    (u64 [$range:tt] $field:ident $from:ident) => { $crate::declare::draw!(@ u64 $range $field $from) };
    (@ $ty:ident $range:tt $field:ident $from:ident) => {{
        let (min, max): ($ty, $ty) = (*$range.start(), *$range.end());
        let drawn = $from.number(stringify!($field), u64::from(min), u64::from(max));
        <$ty>::try_from(drawn).expect("what is drawn is in its range")
    }};
    (id [] $field:ident $from:ident) => { $from.id(stringify!($field)) };
    (session [] $field:ident $from:ident) => { $from.id(stringify!($field)) };
    (call [] $field:ident $from:ident) => { $from.call() };
    (name [] $field:ident $from:ident) => { $from.bytes(stringify!($field)) };
    (value [] $field:ident $from:ident) => { $from.bytes(stringify!($field)) };
    (bytes [] $field:ident $from:ident) => { $from.bytes(stringify!($field)) };
    ($choice:ident [($($choices:tt)*)] $field:ident $from:ident) => {{
        let may = |one: &$choice| matches!(one, $($choices)*);
        let count = $choice::ALL.iter().filter(|one| may(one)).count();
        let nth = $from.number(stringify!($field), 0, count as u64 - 1);
        let nth = usize::try_from(nth).expect("what is drawn is in its range");
        *$choice::ALL.iter().filter(|one| may(one)).nth(nth).expect("what is drawn is in its range")
    }};
    ($choice:ident [] $field:ident $from:ident) => { $crate::declare::draw!($choice [(_)] $field $from) };
}
pub(crate) use draw;
