//! Functions that today's `std` refers to and Debian's wasi-libc (2022) does
//! not define. Each reports that it is not supported: the component model
//! gives a guest no threads, and this C library gives it no sockets.
#![no_std]
#![feature(thread_local)]

use core::ffi::{c_char, c_int, c_void};

const EAGAIN: c_int = 6;
const ENOSYS: c_int = 52;
const EAI_FAIL: c_int = -4;

extern "C" {
    #[thread_local]
    static mut errno: c_int;
}

macro_rules! not_supported {
    ($($name:ident($($arg:ty),*);)*) => {
        $(#[no_mangle] unsafe extern "C" fn $name($(_: $arg),*) -> c_int { errno = ENOSYS; -1 })*
    };
}
type P = *mut c_void;
not_supported! {
    chmod(P, u32);
    fchmod(c_int, u32);
    socket(c_int, c_int, c_int);
    bind(c_int, P, u32);
    connect(c_int, P, u32);
    listen(c_int, c_int);
    getpeername(c_int, P, P);
    getsockname(c_int, P, P);
    setsockopt(c_int, c_int, c_int, P, u32);
    recvfrom(c_int, P, usize, c_int, P, P);
    sendto(c_int, P, usize, c_int, P, u32);
}

#[no_mangle]
unsafe extern "C" fn realpath(_: P, _: P) -> P {
    errno = ENOSYS;
    core::ptr::null_mut()
}

#[no_mangle]
extern "C" fn getaddrinfo(_: P, _: P, _: P, _: P) -> c_int {
    EAI_FAIL
}

#[no_mangle]
extern "C" fn freeaddrinfo(_: P) {}

#[no_mangle]
extern "C" fn gai_strerror(_: c_int) -> *const c_char {
    c"this build has no name resolution".as_ptr()
}

#[no_mangle]
extern "C" fn pthread_create(_: P, _: P, _: P, _: P) -> c_int {
    EAGAIN
}

macro_rules! nothing_to_do {
    ($($name:ident($($arg:ty),*);)*) => {
        $(#[no_mangle] extern "C" fn $name($(_: $arg),*) -> c_int { 0 })*
    };
}
nothing_to_do! {
    pthread_attr_init(P);
    pthread_attr_destroy(P);
    pthread_attr_setstacksize(P, usize);
    pthread_detach(P);
    pthread_join(P, P);
}

#[no_mangle]
extern "C" fn __errno_location() -> *mut c_int {
    &raw mut errno
}
