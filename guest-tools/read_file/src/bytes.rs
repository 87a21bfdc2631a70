//! A range of bytes, as text or as what they are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bulkhead_files::{MAX_TEXT, Place, Workspace, io_fault, size as show_size};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Blob, Content, Outcome, ToolError, text_and_json};

use crate::{Args, Encoding, refuse_binary};

/// Half of what a whole result may hold, since base64 grows by a third on its
/// way to the caller.
const MAX_BYTES: usize = 512 * 1024;

pub fn read(workspace: &Workspace, place: &Place, size: u64, args: &Args) -> Outcome {
    let start = args.start_byte.unwrap_or(0);
    if start > size {
        let message = format!("`start_byte` is {start}, but `{place}` has {size} bytes.");
        return Err(ToolError::new("out_of_range", message).details(&json!({ "size": size })));
    }
    let most = if args.encoding == Encoding::Base64 { MAX_BYTES } else { MAX_TEXT };
    let wanted = args.byte_count.unwrap_or(u64::MAX).min(size - start);
    let data = read_range(place, start, wanted.min(most as u64)).map_err(|e| io_fault(workspace, place, e))?;

    let next = start + data.len() as u64;
    let truncated = (data.len() as u64) < wanted;
    let mut facts = json!({
        "path": place.shown(), "size": size,
        "start_byte": start, "byte_count": data.len(), "truncated": truncated,
    });
    let mut remark = format!("bytes {start} to {next} of {size}");
    if truncated {
        facts["next"] = next.into();
        remark.push_str(&format!("; read on with \"start_byte\": {next}"));
    }
    if args.encoding == Encoding::Base64 {
        let text = format!("`{place}`, {}: {remark}.", show_size(size));
        let mut parts = text_and_json(text, &facts);
        parts.push(Content::Blob(Blob { media_type: media_type(place.name()).into(), data }));
        return Ok(parts);
    }
    refuse_binary(place.shown(), size, &data)?;
    Ok(text_and_json(format!("{}\n[{remark}]", String::from_utf8_lossy(&data)), &facts))
}

fn read_range(place: &Place, start: u64, count: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(place.real())?;
    file.seek(SeekFrom::Start(start))?;
    let mut data = Vec::with_capacity(count as usize);
    file.take(count).read_to_end(&mut data)?;
    Ok(data)
}

/// Of the few types that a client can show.
fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or("").to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}
