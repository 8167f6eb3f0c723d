import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { HoldfastError } from '../base/errors.ts'

/**
 * Writes the example configuration to a new file, and beside it the tables that it names, for `holdfast init`: what it
 * leaves can be started as it is. Gives the paths of what was written. Throws `argument_invalid` when the configuration is there
 * already, or when a file cannot be written; a retry needs another path.
 */
export async function writeExampleConfig(file: string): Promise<readonly string[]> {
  const tables = join(dirname(file), 'schema', 'accounts', '0001-accounts.sql')
  if (!(await writeNew(file, configTemplate))) {
    throw new HoldfastError('argument_invalid', `${file} is there already`, {
      hint: 'name another file, or take that one away first',
    })
  }
  await mkdir(dirname(tables), { recursive: true })
  return (await writeNew(tables, tablesTemplate)) ? [file, tables] : [file]
}

/** False when the file is there already. */
async function writeNew(file: string, text: string): Promise<boolean> {
  try {
    await writeFile(file, text, { flag: 'wx' })
    return true
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'EEXIST') return false
    throw new HoldfastError('argument_invalid', `${file} cannot be written`, {
      hint: 'name a file in a folder that you can write to',
      cause,
    })
  }
}

/** The commented `holdfast.yaml` that `holdfast init` writes. */
export const configTemplate = `# A Holdfast fleet. Every key is described in docs/reference/configuration.md.
# Paths are relative to this file.

fleet: example
dataDir: .holdfast          # PostgreSQL servers, sockets and keys of this fleet
listen: 127.0.0.1:7400      # HTTP API and console
# app: ./app.js             # routes and hooks of your application, served by \`holdfast up\`
# maxClockOffset: 500       # ms a timestamp may lie ahead of the local clock before it is refused
# restoreWindow: 35d        # how far back a restore may go; records and idempotency keys are kept that long

# Named places, each under one jurisdiction. An archive is the folder for backups kept in that region.
regions:
  eu-west:    { jurisdiction: EU, archive: ./archive/eu-west }
  eu-central: { jurisdiction: EU }
  us-east:    { jurisdiction: US, archive: ./archive/us-east }

# Round trips in milliseconds, put between the regions by \`holdfast up --wan\`.
links: { eu-west~eu-central: 12, eu-west~us-east: 80, eu-central~us-east: 90 }

# One PostgreSQL cluster each: a primary in the region of its name, and one follower for each region listed.
# durability: quorum waits for followers, local does not and can lose acknowledged writes.
# survive: region makes every acknowledgement include a follower in another region.
shards:
  eu-west/main: { durability: quorum, followers: [eu-west, eu-central], survive: region }
  us-east/main: { durability: quorum, followers: [us-east, us-east] }

# Tables that are placed together, made by the .sql files of \`schema\`, in the order of their names. Regulated tables have a
# column \`tenant text not null\`.
#   regulated   authoritative; at the home of each tenant, or pinned to one shard under a policy of its own
#   reference   copied everywhere on purpose
#   derived     built elsewhere from the listed columns and nothing else
domains:
  accounts: { class: regulated, placement: tenant-home, schema: ./schema/accounts, tables: [accounts, payments] }
# treasury:
#   class: regulated
#   placement: us-east/main
#   tables: [treasury_accounts]
#   policy: { authority: [us-east], replicas: [US], otherwise: reject }
# rates:    { class: reference, source: us-east/main, tables: [rates] }
# overview: { class: derived, at: us-east/main, from: { accounts: { payments: [id, status] } } }

# Who the data belongs to, where it lives, and what its contract says:
#   authority   regions that may hold the primary, in failover order
#   replicas    jurisdictions that may hold followers and backups
#   otherwise   read-only or reject, when no legal region is left
tenants:
  globex-eu:  { home: eu-west/main, policy: { authority: [eu-west, eu-central], replicas: [EU], otherwise: read-only } }
  initech-us: { home: us-east/main, policy: { authority: [us-east], replicas: [US], otherwise: reject } }

# invariants: ./invariants                              # .sql files that return the rows that break a rule
# drills: { every: 24h, target: 5m-ago }                # rehearse a restore by schedule
# outbox: { webhook: 'http://127.0.0.1:9999/hook' }     # where emitted events are delivered
`

/** The tables of that configuration. */
const tablesTemplate = `-- Runs once on every shard that may hold the domain. Write what comes later into a file of its own.

create table accounts (
  tenant text not null,
  id text not null,
  owner text not null,
  primary key (tenant, id)
);

create table payments (
  tenant text not null,
  id text not null,
  account text not null,
  amount_cents bigint not null check (amount_cents > 0),
  status text not null,
  primary key (tenant, id),
  foreign key (tenant, account) references accounts (tenant, id)
);
`
