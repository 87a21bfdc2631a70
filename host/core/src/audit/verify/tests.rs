use super::super::chain::Columns;
use super::*;

fn columns(number: u64) -> Columns {
    Columns {
        at: 1_800_000_000_000 + number.cast_signed(),
        chain: "ten_01jd8n2m4v0000000000000000".into(),
        user: Some("usr_01jd8n2m4v0000000000000000".into()),
        task: number.is_multiple_of(2).then(|| "task_01jd8n2m4v0000000000000000".into()),
        call: number.is_multiple_of(3).then(|| "call_01jd8n2m4v0000000000000000".into()),
        kind: "http.decided".into(),
        data: format!(r#"{{"url":"https://a.example/{number}"}}"#).into(),
    }
}

fn chain(length: u64) -> (ChainState, Vec<Stored>) {
    let mut head = Place::START;
    let records = (1..=length).map(|number| {
        head = head.next(&columns(number).leaf());
        Stored { number, columns: columns(number), hash: head.hash.as_bytes().to_vec() }
    });
    let records = records.collect();
    (ChainState { chain: columns(1).chain, kept_after: Place::START, head }, records)
}

fn place(record: &Stored) -> Place {
    Place { number: record.number, hash: link(&record.hash).expect("a link") }
}

#[test]
fn a_whole_chain_is_found_whole() {
    let (state, records) = chain(9);
    let trusted = vec![place(&records[8]), place(&records[2])];
    let whole = Whole { records: 9, heads: 2, trusted: Some(9), too_old: 0 };
    assert_eq!(verify(&state, &records, trusted), Ok(whole));
    let (empty, _) = chain(0);
    assert!(verify(&empty, &[], vec![]).is_ok());
}

/// Every bit of every column of every record.
#[test]
fn any_bit_that_is_flipped_is_found() {
    let (state, records) = chain(4);
    let mut tried = 0;
    for nth in 0..records.len() {
        let parts = texts(&records[nth]);
        for (part, text) in parts.iter().enumerate() {
            for (byte, bit) in (0..text.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
                let mut flipped = text.clone();
                flipped[byte] ^= 1 << bit;
                let Some(record) = with(&records[nth], part, flipped) else { continue };
                let mut changed = records.clone();
                changed[nth] = record;
                assert!(verify(&state, &changed, vec![]).is_err(), "record {nth}, column {part}, byte {byte}");
                tried += 1;
            }
        }
    }
    assert!(tried > 4_000, "{tried}");
}

/// The columns as bytes.
fn texts(record: &Stored) -> [Vec<u8>; 9] {
    let Columns { at, chain, user, task, call, kind, data } = record.columns.clone();
    let or_none = |text: Option<String>| text.unwrap_or_default().into_bytes();
    [
        record.number.to_be_bytes().to_vec(),
        at.to_be_bytes().to_vec(),
        chain.into_bytes(),
        or_none(user),
        or_none(task),
        or_none(call),
        kind.into_bytes(),
        data.as_bytes().to_vec(),
        record.hash.clone(),
    ]
}

/// The record with one column replaced; nothing if no text has these bytes.
fn with(record: &Stored, part: usize, bytes: Vec<u8>) -> Option<Stored> {
    let mut record = record.clone();
    let text = || String::from_utf8(bytes.clone()).ok();
    match part {
        0 => record.number = u64::from_be_bytes(bytes.try_into().ok()?),
        1 => record.columns.at = i64::from_be_bytes(bytes.try_into().ok()?),
        2 => record.columns.chain = text()?,
        3 => record.columns.user = Some(text()?),
        4 => record.columns.task = Some(text()?),
        5 => record.columns.call = Some(text()?),
        6 => record.columns.kind = text()?,
        7 => record.columns.data = text()?.into(),
        _ => record.hash = bytes,
    }
    Some(record)
}

#[test]
fn what_is_moved_from_one_column_to_the_next_is_found() {
    let (state, mut records) = chain(3);
    let columns = &mut records[0].columns;
    columns.task = columns.user.take();
    assert_eq!(verify(&state, &records, vec![]), Err(Broken::Changed { number: 1 }));
    let (state, mut records) = chain(3);
    records[2].columns.call = None;
    assert_eq!(verify(&state, &records, vec![]), Err(Broken::Changed { number: 3 }));
    let (state, mut records) = chain(3);
    records[0].columns.call = Some(String::new());
    assert_eq!(verify(&state, &records, vec![]), Err(Broken::Changed { number: 1 }));
}

#[test]
fn what_is_removed_or_changes_places_is_found() {
    let (state, records) = chain(6);
    let without = |nth: usize| {
        let mut records = records.clone();
        records.remove(nth);
        verify(&state, &records, vec![])
    };
    assert_eq!(without(0), Err(Broken::Gap { expected: 1, found: 2 }));
    assert_eq!(without(3), Err(Broken::Gap { expected: 4, found: 5 }));
    assert_eq!(without(5), Err(Broken::Ends { found: 5, head: 6 }));
    let mut swapped = records.clone();
    swapped.swap(1, 2);
    assert_eq!(verify(&state, &swapped, vec![]), Err(Broken::Gap { expected: 2, found: 3 }));
    // With their numbers exchanged too.
    (swapped[1].number, swapped[2].number) = (2, 3);
    assert_eq!(verify(&state, &swapped, vec![]), Err(Broken::Changed { number: 2 }));
}

#[test]
fn who_makes_the_chain_anew_is_found_by_a_signed_head() {
    let (state, records) = chain(6);
    let signed = vec![place(&records[1]), place(&records[4])];
    // Its end cut off, head and all.
    let cut = ChainState { head: place(&records[3]), ..state.clone() };
    assert!(verify(&cut, &records[..4], vec![]).is_ok(), "a chain alone can't show it");
    assert_eq!(verify(&cut, &records[..4], signed.clone()), Err(Broken::Truncated { last: 4, signed: 5 }));
    // Another record in the third's place, and every link made anew.
    let mut forged = records.clone();
    forged[2].columns.data = "{}".into();
    let mut head = place(&records[1]);
    for record in &mut forged[2..] {
        head = head.next(&record.columns.leaf());
        record.hash = head.hash.as_bytes().to_vec();
    }
    let state = ChainState { head, ..state };
    assert!(verify(&state, &forged, vec![]).is_ok());
    assert_eq!(verify(&state, &forged, signed), Err(Broken::Forged { number: 5 }));
}

#[test]
fn what_retention_left_begins_at_its_checkpoint() {
    let (state, records) = chain(6);
    let kept = ChainState { kept_after: place(&records[2]), ..state.clone() };
    let signed = vec![place(&records[0]), place(&records[2]), place(&records[5])];
    let whole = Whole { records: 3, heads: 2, trusted: Some(6), too_old: 1 };
    assert_eq!(verify(&kept, &records[3..], signed.clone()), Ok(whole));
    let moved = ChainState { kept_after: Place { number: 3, hash: Digest::of(b"x") }, ..state.clone() };
    assert_eq!(verify(&moved, &records[3..], signed), Err(Broken::Forged { number: 3 }));
    // All of it may go.
    let gone = ChainState { kept_after: state.head, ..state };
    assert!(verify(&gone, &[], vec![place(&records[5])]).is_ok());
}

#[test]
fn a_statement_is_these_bytes() {
    let heads = [("operator".to_owned(), Place { number: 3, hash: Digest::of(b"x") })];
    let mut bytes = b"bulkhead/audit/heads/1\n".to_vec();
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 5]);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0, 0, 0, 8]);
    bytes.extend(b"operator");
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 3]);
    bytes.extend(Digest::of(b"x").as_bytes());
    assert_eq!(statement(5, &heads), bytes);
}

#[test]
fn a_chain_that_was_cut_off_at_its_beginning_is_found() {
    let (state, records) = chain(9);
    let at = Timestamp::from_millis;
    let signed = |nth: usize, ms| SignedPlace { place: place(&records[nth]), at: at(ms) };
    let heads = [signed(1, 100), signed(4, 200), signed(7, 300)];
    assert_eq!(removed_in_time(&state, &heads, at(0)), Ok(()), "nothing is gone");
    let kept = ChainState { kept_after: place(&records[6]), ..state.clone() };
    assert_eq!(removed_in_time(&kept, &heads, at(200)), Ok(()), "what is gone was old enough");
    assert_eq!(
        removed_in_time(&kept, &heads, at(199)),
        Err(Broken::RemovedEarly { removed: 7, signed: 5, at: at(200) })
    );
    // All is gone, and the link that is left is right: a chain alone can't show it.
    let empty = ChainState { kept_after: state.head, ..state };
    let places = heads.iter().map(|head| head.place).collect();
    assert!(verify(&empty, &[], places).is_ok());
    assert!(removed_in_time(&empty, &heads, at(299)).is_err());
    assert!(removed_in_time(&empty, &heads, at(300)).is_ok());
}
