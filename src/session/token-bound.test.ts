import { expect, test } from 'vitest'
import type { TenantName } from '../directory/topology.ts'
import { binding, boundOf } from './token-bound.ts'

const boundTo = (tenant: string) =>
  boundOf(binding.tenant, { fleet: 'test', tenant: tenant as TenantName, credential: undefined })

test('what the tokens of a tenant have in common is made once', () => {
  expect(boundTo('globex-eu')).toBe(boundTo('globex-eu'))
  expect(boundTo('globex-eu')).not.toBe(boundTo('initech-us'))
})

test('of a name that is longer than names are nothing is kept: whoever asks may have made it up', () => {
  const endless = 'x'.repeat(10_000)
  expect(boundTo(endless)).not.toBe(boundTo(endless))
  expect(boundTo(endless)).toEqual(boundTo(endless))
})

test('those who come by ever new names do not keep more than a thousand', () => {
  const first = boundTo('first')
  for (let index = 0; index < 1_000; index += 1) boundTo(`stranger ${index}`)
  expect(boundTo('first')).not.toBe(first)
})
