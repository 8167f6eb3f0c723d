-- The functions of the schema may see what other sessions of this server do, so that an alarm can name who holds the
-- closed timestamp. Gateways see it through those functions alone.
grant pg_read_all_stats to holdfast_owner;
