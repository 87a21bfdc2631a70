//! Sends requests until one is answered by no redirect.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn follow(hop: crate::hop::Hop, follow: u32, most: u64) -> bulkhead_tool::Outcome {
    // There is no host to ask.
    drop((hop, follow, most));
    Ok(Vec::new())
}

#[cfg(target_arch = "wasm32")]
pub(crate) use real::follow;

#[cfg(target_arch = "wasm32")]
mod real {

    use bulkhead_client::{Header, Response, start};
    use bulkhead_tool::serde_json::{Value, json};
    use bulkhead_tool::{Blob, Content, Outcome, ToolError, host, json as json_part};

    use crate::error;
    use crate::hop::Hop;

    /// As much as is read at once.
    const PIECE: u64 = 64 * 1024;

    pub(crate) fn follow(mut hop: Hop, mut left: u32, most: u64) -> Outcome {
        let mut redirects: Vec<String> = Vec::new();
        loop {
            let response = send(&hop)?;
            let (status, header) = (response.status(), response.header());
            let next = if left > 0 { hop.next(status, &header) } else { None };
            match next {
                None => return answer(&hop, response, &header, &redirects, most),
                Some(Err(why)) => {
                    let message = format!("{} redirects to what can't be requested: {why}.", hop.url);
                    return Err(ToolError::new("http_redirect", message));
                }
                Some(Ok(next)) => {
                    left -= 1;
                    redirects.push(hop.url.to_string());
                    hop = next;
                }
            }
            if host::is_cancelled() {
                return Err(host::cancelled());
            }
        }
    }

    fn send(hop: &Hop) -> Result<Response, ToolError> {
        let failed = |failure| error::of(&failure, &hop.url);
        let mut sending = start(&hop.method, &hop.url, &hop.header, hop.body.is_some()).map_err(failed)?;
        if let Some(body) = &hop.body {
            // A server may answer before it has read everything: its answer says more.
            if sending.write(body.as_bytes()).is_ok() {
                sending.finish().map_err(failed)?;
            }
        }
        sending.response().map_err(failed)
    }

    fn answer(hop: &Hop, mut response: Response, header: &Header, redirects: &[String], most: u64) -> Outcome {
        let (body, truncated) = read(hop, &mut response, most)?;
        let headers: Vec<Value> = header
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": String::from_utf8_lossy(value) }))
            .collect();
        let facts = json!({
            "url": hop.url.to_string(),
            "status": response.status(),
            "headers": headers,
            "redirects": redirects,
            "bytes": body.len(),
            "truncated": truncated,
        });
        let mut parts = json_part(&facts);
        if !body.is_empty() {
            parts.push(content(body, truncated, header));
        }
        Ok(parts)
    }

    fn read(hop: &Hop, response: &mut Response, most: u64) -> Result<(Vec<u8>, bool), ToolError> {
        let mut body = Vec::new();
        loop {
            // One byte more tells whether there is more.
            let left = (most + 1).saturating_sub(body.len() as u64);
            match response.read(left.min(PIECE)).map_err(|failure| error::of(&failure, &hop.url))? {
                None => return Ok((body, false)),
                Some(data) => body.extend_from_slice(&data),
            }
            if body.len() as u64 > most {
                body.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                return Ok((body, true));
            }
            if host::is_cancelled() {
                return Err(host::cancelled());
            }
        }
    }

    fn content(mut body: Vec<u8>, truncated: bool, header: &Header) -> Content {
        if truncated
            && let Err(error) = core::str::from_utf8(&body)
            && error.error_len().is_none()
        {
            // Cut within a character.
            body.truncate(error.valid_up_to());
        }
        match String::from_utf8(body) {
            Ok(text) => Content::Text(text),
            Err(error) => Content::Blob(Blob { media_type: media_type(header), data: error.into_bytes() }),
        }
    }

    /// What the server says it is, if it says it as the host takes it.
    fn media_type(header: &Header) -> String {
        let said = header.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let said = said.and_then(|(_, value)| core::str::from_utf8(value).ok()).and_then(|text| text.split(';').next());
        let token = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
        };
        let known = said.map(str::trim).filter(|text| {
            text.len() <= 255 && text.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
        });
        known.unwrap_or("application/octet-stream").into()
    }
}
