import { randomBytes } from '../base/random.ts'
import { readJsonFile, writeFileDurably } from './home.ts'

/** The secrets of an embedded fleet, made at its first start and kept in files of mode 0600. */
export const roleNames = ['holdfast_admin', 'holdfast_gateway', 'holdfast_app', 'holdfast_replication'] as const

export type RoleName = (typeof roleNames)[number]

export interface FleetKeys {
  readonly passwords: Readonly<Record<RoleName, string>>
  /** Session tokens are signed with the current key and verified with all. */
  readonly tokenKeys: { readonly current: number; readonly keys: Readonly<Record<string, string>> }
}

export async function loadOrMakeKeys(keysDir: string): Promise<FleetKeys> {
  const path = `${keysDir}/fleet.json`
  const known = await readJsonFile(path)
  if (known !== undefined) return known as FleetKeys
  const secret = () => Buffer.from(randomBytes(32)).toString('base64url')
  const keys: FleetKeys = {
    passwords: {
      holdfast_admin: secret(),
      holdfast_gateway: secret(),
      holdfast_app: secret(),
      holdfast_replication: secret(),
    },
    tokenKeys: { current: 1, keys: { 1: secret() } },
  }
  await writeFileDurably(path, JSON.stringify(keys, null, 2))
  return keys
}
