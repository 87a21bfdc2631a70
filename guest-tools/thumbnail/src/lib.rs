//! The tool `thumbnail`: a small picture of a picture. Decoders of pictures see hostile
//! bytes, so they are here, in a guest, and not in the server.

use std::fs;
use std::io::Cursor;

use bulkhead_files::{Place, Workspace, io_fault};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, blob, text_and_json};
use image::{DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits};

/// Largest file: it is read whole.
const MAX_FILE: u64 = 32 << 20;
/// Most pixels of a side.
const MAX_SIDE: u32 = 12_000;
/// What decoding may allocate: with the file and the picture it stays below what a
/// call has by default.
const MAX_MEMORY: u64 = 96 << 20;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
    #[serde(default = "usual")]
    size: u32,
}

fn usual() -> u32 {
    256
}

/// The tool.
pub struct Thumbnail;

impl Tool for Thumbnail {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("thumbnail", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        thumbnail(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Thumbnail);

fn thumbnail(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place("path", &args.path)?;
    let size = workspace.file(&place)?.len();
    if size > MAX_FILE {
        let message = format!("`{place}` has {size} bytes; a picture may have {MAX_FILE}");
        return Err(ToolError::new("too_large", message));
    }
    let bytes = fs::read(place.real()).map_err(|error| io_fault(workspace, &place, error))?;
    let (format, picture) = decode(&place, bytes)?;
    let (width, height) = (picture.width(), picture.height());
    let side = args.size.min(width.max(height)).max(1);
    let small = picture.thumbnail(side, side);
    drop(picture);
    let mut png = Vec::new();
    // Eight bits for each colour: what every viewer shows.
    let small = DynamicImage::ImageRgba8(small.into_rgba8());
    small.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).map_err(|error| fault(&place, &error))?;
    let name = format.extensions_str().first().copied().unwrap_or("unknown");
    let facts = json!({
        "path": place.shown(),
        "format": name,
        "width": width,
        "height": height,
        "thumbnail_width": small.width(),
        "thumbnail_height": small.height(),
    });
    let mut parts = text_and_json(format!("`{place}` is a picture ({name}) of {width} × {height} pixels."), &facts);
    parts.extend(blob("image/png", png));
    Ok(parts)
}

fn decode(place: &Place, bytes: Vec<u8>) -> Result<(ImageFormat, DynamicImage), ToolError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|error| fault(place, &ImageError::IoError(error)))?;
    let format = reader
        .format()
        .ok_or_else(|| ToolError::new("not_a_picture", format!("`{place}` is no PNG, JPEG, GIF or WebP")))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| fault(place, &error))?;
    let bytes = decoder.total_bytes();
    if bytes > MAX_MEMORY {
        let message = format!("`{place}` has {bytes} bytes when decoded; it may have {MAX_MEMORY}");
        return Err(ToolError::new("too_large", message));
    }
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| fault(place, &error))?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok((format, picture))
}

fn fault(place: &Place, error: &ImageError) -> ToolError {
    match error {
        ImageError::Limits(_) => {
            let message = format!("`{place}` is too large: {MAX_SIDE} pixels a side, {MAX_MEMORY} bytes when decoded");
            ToolError::new("too_large", message)
        }
        ImageError::Unsupported(_) => {
            ToolError::new("not_a_picture", format!("`{place}` is no picture of a kind that is known: {error}"))
        }
        error => ToolError::new("damaged_picture", format!("`{place}` can't be decoded: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::Content;

    use super::*;

    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture =
            DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7])));
        picture.write_to(&mut Cursor::new(&mut bytes), format).expect("encodes");
        bytes
    }

    fn of(workspace: &Workspace, path: &str, size: u32) -> Outcome {
        thumbnail(workspace, &Args { path: path.into(), size })
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Thumbnail>(json!({ "path": "a" }));
    }

    #[test]
    fn pictures_of_each_kind_become_small_ones() {
        let ws = TempWorkspace::with(&[]);
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
            ws.write("p", &picture(200, 100, format));
            let parts = of(&ws, "p", 50).expect("a thumbnail");
            let [Content::Text(text), Content::Json(facts), Content::Blob(blob)] = &parts[..] else {
                panic!("{parts:?}")
            };
            assert!(text.contains("200 × 100") && facts.contains("\"thumbnail_height\":25"), "{facts}");
            let small = image::load_from_memory_with_format(&blob.data, ImageFormat::Png).expect("a picture");
            assert_eq!((small.width(), small.height(), blob.media_type.as_str()), (50, 25, "image/png"));
        }
        let parts = of(&ws, "p", 512).expect("as it is");
        assert!(matches!(&parts[1], Content::Json(facts) if facts.contains("\"thumbnail_width\":200")));
    }

    #[test]
    fn what_is_no_picture_or_too_much_is_refused() {
        let whole = picture(64, 64, ImageFormat::Png);
        let ws = TempWorkspace::with(&[("text", "no picture"), ("empty", "")]);
        ws.write("cut", &whole[..whole.len() / 2]);
        // A head that says 60000 × 60000: its check sum is made anew.
        let mut bomb = whole.clone();
        bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let sum = crc(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&sum.to_be_bytes());
        ws.write("bomb", &bomb);
        let code = |path: &str| of(&ws, path, 64).expect_err(path).code;
        assert_eq!(code("text"), "not_a_picture");
        assert_eq!(code("empty"), "not_a_picture");
        assert_eq!(code("cut"), "damaged_picture");
        assert_eq!(code("bomb"), "too_large");
        assert_eq!(code("none"), "not_found");
        assert_eq!(code("../secret"), "path_outside_workspace");
    }

    /// The check sum of PNG (its specification, annex D).
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 })
        })
    }
}
