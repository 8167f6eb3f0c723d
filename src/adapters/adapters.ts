import type { DomainClient } from '../transaction/transaction.ts'

/**
 * Query builders on a transaction or a read: the same statements as `query`, through the same guard, to the same shard.
 *
 *   B1  A builder runs on one domain of one `transact` or `read`, and ends with it. It has no connection of its own.
 *   B2  The transaction is Holdfast's. What a builder sends to begin, commit or roll back one is refused with
 *       `statement_refused`, and the transaction can then only fail.
 *   B3  What a statement fails with is a `HoldfastError`; a builder that wraps it has it as `cause`.
 *
 * Owns: the forms that builders want a client in (`kysely.ts`, `drizzle.ts`). Each is an entry of the package of its own, and
 * loads its builder when it is imported. Others that take a `pg` client take `tx.client(domain)` as it is.
 */

/** As much of `Transaction`, and of `Reader`, as a builder needs. */
export interface HasClients {
  client(domain: string): DomainClient
}
