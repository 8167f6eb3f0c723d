import pg from 'pg'
import { inject } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'

/** A database of its own for one test file or test, made from the template that holds the project's schema. */
export interface FreshDatabase {
  readonly name: string
  /** Where a role connects; `holdfast_admin` when none is named. */
  target(role?: string): ConnectionTarget
  drop(): Promise<void>
}

export function freshDatabase(): Promise<FreshDatabase> {
  return databaseFrom(inject('postgres').template)
}

/** One without the schema, for a test that founds it. */
export function emptyDatabase(): Promise<FreshDatabase> {
  return databaseFrom('template0')
}

async function databaseFrom(template: string): Promise<FreshDatabase> {
  const shared = inject('postgres')
  const name = `t_${newRandomUuid().replaceAll('-', '')}`
  const target = (role: string = shared.superuser, database: string = name): ConnectionTarget => ({
    host: shared.host,
    port: shared.port,
    user: role,
    password: present(shared.passwords[role], `a role of the test server: ${role}`),
    database,
    applicationName: 'test',
  })
  const administer = async (sql: string) => {
    const client = new pg.Client(target(shared.superuser, 'postgres'))
    await client.connect()
    try {
      await client.query(sql)
    } finally {
      await client.end()
    }
  }
  await administer(`create database ${name} template ${template}`)
  return { name, target: (role) => target(role), drop: () => administer(`drop database ${name} with (force)`) }
}
