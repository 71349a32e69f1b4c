//! Large buffers that cost nothing until they are used.

/// Makes the allocator of this process take zeroed buffers of 128 KiB and more from the kernel, untouched, and
/// give them back when they are freed (mallopt(3), `M_MMAP_THRESHOLD`).
///
/// Left alone, glibc raises that threshold as such buffers are freed, and then clears recycled memory by hand: a
/// stack with ten thousand idle connections would hold all of their buffers, some 5 GiB, instead of 200 MiB.
pub fn keep_large_buffers_lazy() {
    #[cfg(target_env = "gnu")]
    {
        const THRESHOLD: libc::c_int = 128 * 1024;
        // SAFETY: mallopt takes plain numbers and locks the allocator itself. It fails only for values out of
        // range, and then changes nothing.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD) };
    }
}
