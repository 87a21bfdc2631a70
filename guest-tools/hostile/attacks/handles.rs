//! Opens without closing. Wanted: `failed`, `limit.handles` or for streams
//! `limit.streams`, and for files a refusal that the guest survives, well before
//! the host's process runs out of file descriptors; its neighbours keep theirs.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip2::http::types::{Fields, OutgoingRequest};

hostile::attacks!("handles", run);

const MANY: usize = 1_000_000;

fn run(attack: &str) -> Outcome {
    match attack {
        "pollables" => keep(|_| Ok(monotonic_clock::subscribe_duration(1_000_000_000))),
        "preopens" => keep(|_| Ok(get_directories())),
        "files" => {
            let root = root();
            keep(|_| open(&root, "file"))
        }
        "new_files" => {
            let root = root();
            keep(|n| open(&root, &format!("file-{n}")))
        }
        "directories" => {
            let root = root();
            keep(|_| root.open_at(PathFlags::empty(), ".", OpenFlags::DIRECTORY, DescriptorFlags::READ))
        }
        "directory_streams" => {
            let root = root();
            keep(|_| root.read_directory())
        }
        "streams" => {
            let file = open(&root(), "file").expect("a file");
            keep(|_| file.read_via_stream(0))
        }
        "writers" => {
            let file = open(&root(), "file").expect("a file");
            keep(|n| if n % 2 == 0 { file.write_via_stream(0) } else { file.append_via_stream() })
        }
        // A stream keeps its file open, so closing the descriptor gives no room.
        "files_of_streams" => {
            let root = root();
            keep(|_| open(&root, "file")?.read_via_stream(0))
        }
        "files_of_listings" => {
            let root = root();
            keep(|_| {
                let directory = root.open_at(PathFlags::empty(), ".", OpenFlags::DIRECTORY, DescriptorFlags::READ)?;
                directory.read_directory()
            })
        }
        "bodies" => keep(|_| {
            let request = OutgoingRequest::new(Fields::new());
            let body = request.body().expect("a body");
            let stream = body.write().expect("a stream");
            Ok((stream, body, request))
        }),
        // Nobody gave it these; and what is in use must not be dropped.
        "forged" => {
            // SAFETY: it is no handle of this guest, which the host must see.
            let forged = unsafe { wasip2::io::poll::Pollable::from_handle(12_345) };
            hostile::survived(&json!({ "ready": forged.ready() }))
        }
        "drop_parent" => {
            let stream = open(&root(), "file").expect("a file").read_via_stream(0).expect("a stream");
            let ready = stream.subscribe();
            drop(stream);
            hostile::survived(&json!({ "ready": ready.ready() }))
        }
        "dropped_twice" => {
            let pollable = monotonic_clock::subscribe_duration(1);
            // SAFETY: the second is a lie that the host must see.
            let again = unsafe { wasip2::io::poll::Pollable::from_handle(pollable.handle()) };
            drop(pollable);
            drop(again);
            hostile::survived(&json!({ "dropped": 2 }))
        }
        // Each holds a part of what is left to read.
        "listings" => {
            let root = root();
            for n in 0..1_000 {
                if open(&root, &format!("a-name-that-takes-some-room-{n}")).is_err() {
                    break;
                }
            }
            keep(|_| {
                let listing = root.read_directory()?;
                listing.read_directory_entry()?;
                Ok(listing)
            })
        }
        "stdins" => keep(|_| Ok(wasip2::cli::stdin::get_stdin())),
        "stderrs" => keep(|_| Ok(wasip2::cli::stderr::get_stderr())),
        "stdouts" => keep(|_| Ok(wasip2::cli::stdout::get_stdout())),
        _ => hostile::unknown(attack),
    }
}

fn keep<T>(make: impl FnMut(usize) -> Result<T, ErrorCode>) -> Outcome {
    let mut kept = Vec::new();
    for made in (0..MANY).map(make) {
        match made {
            Ok(handle) => kept.push(handle),
            Err(refusal) => {
                let refusal = format!("{refusal:?}");
                return hostile::survived(&json!({ "kept": kept.len(), "refused": true, "refusal": refusal }));
            }
        }
    }
    hostile::survived(&json!({ "kept": kept.len(), "refused": false }))
}

fn root() -> Descriptor {
    get_directories().pop().expect("the workspace").0
}

fn open(root: &Descriptor, name: &str) -> Result<Descriptor, ErrorCode> {
    root.open_at(PathFlags::empty(), name, OpenFlags::CREATE, DescriptorFlags::READ | DescriptorFlags::WRITE)
}
