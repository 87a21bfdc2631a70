//! `_start` for a WASI command: construct, run `main`, destroy, report.
#![no_std]

extern "C" {
    fn __wasm_call_ctors();
    fn __wasm_call_dtors();
    fn __main_void() -> i32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn proc_exit(code: i32) -> !;
}

#[no_mangle]
pub unsafe extern "C" fn _start() {
    __wasm_call_ctors();
    let code = __main_void();
    __wasm_call_dtors();
    if code != 0 {
        proc_exit(code)
    }
}
