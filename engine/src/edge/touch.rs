//! Memory that is needed soon.

/// Has the processor fetch where something begins and ends, without waiting for it.
#[inline]
pub fn touch<T: ?Sized>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let begin = std::ptr::from_ref(what).cast::<i8>();
        let end = begin.wrapping_add(size_of_val(what).saturating_sub(1));
        // SAFETY: a prefetch changes nothing that a program sees, wherever it points.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(begin);
            _mm_prefetch::<_MM_HINT_T0>(end);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
