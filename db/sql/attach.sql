-- Lets an API process wait for a request; no row means that it has ended, and its result is stored.
update queue set channel = $2, abandon_at = null where id = $1 and not ghost returning id, epoch, state
