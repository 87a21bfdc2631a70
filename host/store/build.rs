//! The migrations are embedded by a macro, and Cargo does not see that it
//! reads them: without this a new migration would not be compiled in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
