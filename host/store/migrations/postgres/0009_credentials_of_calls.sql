-- By what the owner of a call was recognised who asked for it: `key:` and its id, `token:`
-- and what its issuer calls it. NULL: nobody had to say, or it was asked for before this.
ALTER TABLE calls ADD COLUMN credential TEXT;
