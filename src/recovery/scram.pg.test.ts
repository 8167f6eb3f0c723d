import { expect, test } from 'vitest'
import { freshDatabase } from '../../test/support/database.ts'
import { withConnection } from '../postgres/postgres.ts'
import { readRoles } from './restore-store.ts'
import { acceptsPassword } from './scram.ts'

test('what PostgreSQL keeps of a password accepts that password and no other', async () => {
  const database = await freshDatabase()
  try {
    const roles = await withConnection(database.target(), (admin) => readRoles(admin, ['holdfast_gateway', 'nobody']))
    expect(roles.map(({ name }) => name)).toEqual(['holdfast_gateway'])
    const verifier = roles[0]?.verifier ?? ''
    const { password } = database.target('holdfast_gateway')
    expect(acceptsPassword(verifier, password)).toBe(true)
    expect(acceptsPassword(verifier, `${password} `)).toBe(false)
    expect(acceptsPassword('md5abc', password)).toBe(false)
  } finally {
    await database.drop()
  }
})
